"use strict";
// The table of objects: sort, filter, pictures, CSV. All data is in the page; nothing is loaded but
// pictures that lie beside it.
(() => {
  const data = JSON.parse(document.getElementById("object-data").textContent);
  const root = document.getElementById("objects");
  const PAGE = 25, SVG = "http://www.w3.org/2000/svg";
  const find = (selector) => root.querySelector(selector);
  let order = [], page = 0, sort = { ...data.sort };

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const shown = (value, kind) => {
    if (value === null) return "–";
    if (kind === "percent") return (100 * value).toFixed(1);
    if (kind === "change") return `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`;
    return String(value);
  };

  // ---- pictures
  const outline = (path, kind) => [
    draw("path", { d: path, class: "outline halo" }),
    draw("path", { d: path, class: `outline outline-${kind}` }),
  ];
  const picture = (view, kinds) => {
    const svg = draw("svg", { viewBox: `0 0 ${view.w} ${view.h}` });
    if (view.src) svg.append(draw("image", { href: view.src, width: view.w, height: view.h, preserveAspectRatio: "none" }));
    for (const kind of kinds) {
      const path = view.paths[data.kinds.indexOf(kind)];
      if (path) svg.append(...outline(path, kind));
    }
    return svg;
  };
  const nameOf = (index) => data.rows[index].slice(0, 3).join(", ");
  const wordsOf = (index) => data.columns.slice(3).map(({ title, kind }, at) =>
    `${title} ${shown(data.rows[index][at + 3], kind)}`).join(" · ");

  // ---- table
  const number = (value) => typeof value === "number";
  const compare = (a, b) => {
    const [x, y] = [data.rows[a][sort.column], data.rows[b][sort.column]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;  // nothing comes last
    const sign = sort.descending ? -1 : 1;
    const by = number(x) && number(y) ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return sign * by || a - b;
  };
  const choose = () => {
    const wanted = find("[data-search]").value.trim().toLowerCase();
    const selects = [...root.querySelectorAll("select[data-column]")];
    order = data.rows.map((_, index) => index).filter((index) => {
      const row = data.rows[index];
      return selects.every((select) => !select.value || String(row[select.dataset.column]) === select.value)
        && (!wanted || row.slice(0, 5).join(" ").toLowerCase().includes(wanted));
    }).sort(compare);
    page = 0;
    show();
  };
  const show = () => {
    const pages = Math.max(Math.ceil(order.length / PAGE), 1);
    const body = find("tbody");
    body.replaceChildren(...order.slice(page * PAGE, (page + 1) * PAGE).map(line));
    find("[data-count]").textContent = `${order.length} of ${data.rows.length} rows, page ${page + 1} of ${pages}`;
    find("[data-previous]").disabled = page === 0;
    find("[data-next]").disabled = page >= pages - 1;
    root.querySelectorAll("thead th[data-at]").forEach((cell) => {
      const is = Number(cell.dataset.at) === sort.column;
      cell.setAttribute("aria-sort", is ? (sort.descending ? "descending" : "ascending") : "none");
    });
    hide();
  };
  const line = (index) => {
    const row = make("tr"), view = data.views[index], cell = make("td", { class: "text" });
    if (view) {
      const button = make("button", { class: "thumb", type: "button", "aria-label": `Picture of ${nameOf(index)}` },
        picture(view, data.kinds.slice(0, 2).filter((kind, at) => view.paths[at]).length ? data.kinds.slice(0, 2) : ["gt"]));
      button.addEventListener("click", () => open(index));
      button.addEventListener("mouseenter", (event) => hover(index, event));
      button.addEventListener("mouseleave", hide);
      cell.append(button);
    }
    row.append(cell);
    data.rows[index].forEach((value, at) => {
      const { kind } = data.columns[at];
      const sign = kind === "change" && value !== null && Math.abs(value) >= 0.0005 ? (value > 0 ? " better" : " worse") : "";
      row.append(make("td", { class: (kind === "text" ? "text name" : "") + (data.coloured ? sign : "") }, shown(value, kind)));
    });
    return row;
  };

  // ---- small picture beside the pointer
  const bubble = document.getElementById("hover");
  const hide = () => { bubble.style.display = "none"; };
  const hover = (index, event) => {
    const view = data.views[index];
    const panels = data.kinds.filter((_, at) => view.paths[at]).map((kind) => make("figure", {},
      make("figcaption", {}, make("span", { class: `line line-${kind}` }), data.names[data.kinds.indexOf(kind)]),
      picture(view, [kind])));
    bubble.replaceChildren(make("div", { class: "pair" }, ...panels));
    bubble.style.display = "block";
    const { width, height } = bubble.getBoundingClientRect();
    bubble.style.left = `${Math.max(Math.min(event.clientX + 20, innerWidth - width - 8), 8)}px`;
    bubble.style.top = `${Math.max(Math.min(event.clientY - height / 2, innerHeight - height - 8), 8)}px`;
  };

  // ---- large picture with a divider
  const dialog = document.getElementById("large");
  const inside = (selector) => dialog.querySelector(selector);
  let current = -1;
  const open = (index) => {
    current = index;
    paint();
    if (!dialog.open) dialog.showModal();
  };
  const paint = () => {
    hide();
    const view = data.views[current], share = Number(inside("[data-divider]").value) / 100, x = share * view.w;
    const svg = picture(view, []);
    const half = (id, left, width) => draw("clipPath", { id }, draw("rect", { x: left, y: 0, width, height: view.h }));
    svg.append(half("left-half", 0, x), half("right-half", x, view.w - x));
    svg.append(draw("g", { "clip-path": "url(#left-half)" }, ...outline(view.paths[0], data.kinds[0])));
    svg.append(draw("g", { "clip-path": "url(#right-half)" }, ...outline(view.paths[1], data.kinds[1])));
    if (view.paths[2] && inside("[data-third]").checked) svg.append(...outline(view.paths[2], data.kinds[2]));
    svg.append(draw("line", { x1: x, x2: x, y1: 0, y2: view.h, class: "divider" }));
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${nameOf(current)}: ${data.names[0]} left, ${data.names[1]} right of the divider`);
    inside(".stage").replaceChildren(svg);
    inside("h3").textContent = nameOf(current);
    inside("[data-words]").textContent = wordsOf(current);
    inside("[data-third-label]").hidden = !view.paths[2];
  };
  const drag = (event) => {
    if (event.buttons !== 1) return;
    const svg = inside(".stage svg"), box = svg.getBoundingClientRect(), view = data.views[current];
    const width = Math.min(box.width, box.height * view.w / view.h);  // the drawing is centred
    const at = (event.clientX - box.left - (box.width - width) / 2) / width;
    inside("[data-divider]").value = 100 * Math.min(Math.max(at, 0), 1);
    paint();
  };
  const step = (by) => {
    const withPicture = order.filter((index) => data.views[index]);
    const at = withPicture.indexOf(current) + by;
    if (at >= 0 && at < withPicture.length) open(withPicture[at]);
  };
  inside("[data-divider]").addEventListener("input", paint);
  inside("[data-third]").addEventListener("change", paint);
  inside(".stage").addEventListener("pointerdown", drag);
  inside(".stage").addEventListener("pointermove", drag);
  inside("[data-back]").addEventListener("click", () => step(-1));
  inside("[data-on]").addEventListener("click", () => step(1));
  inside("[data-close]").addEventListener("click", () => dialog.close());

  // ---- dots of the plots lead to their objects
  document.querySelectorAll(".plot[data-points]").forEach((plot) => {
    const svg = plot.querySelector("svg"), points = JSON.parse(plot.dataset.points);
    const mark = svg.appendChild(draw("circle", { r: 6, class: "mark", visibility: "hidden" }));
    const title = svg.appendChild(draw("title"));
    const nearest = (event) => {
      const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
      const x = (event.clientX - box.left) / box.width * view.width, y = (event.clientY - box.top) / box.height * view.height;
      let best = null, least = 144;
      for (const point of points) {
        const distance = (point[1] - x) ** 2 + (point[2] - y) ** 2;
        if (distance < least) [best, least] = [point, distance];
      }
      return best;
    };
    plot.dataset.live = "";
    svg.addEventListener("pointermove", (event) => {
      const point = nearest(event);
      mark.setAttribute("visibility", point ? "visible" : "hidden");
      if (!point) { hide(); return; }
      mark.setAttribute("cx", point[1]);
      mark.setAttribute("cy", point[2]);
      title.textContent = `${nameOf(point[0])}: ${wordsOf(point[0])}`;
      if (data.views[point[0]]) hover(point[0], event);
    });
    svg.addEventListener("pointerleave", () => { hide(); mark.setAttribute("visibility", "hidden"); });
    svg.addEventListener("click", (event) => {
      const point = nearest(event);
      if (point && data.views[point[0]]) open(point[0]);
    });
  });

  // ---- CSV of the rows that are shown
  const csvCell = (value) => {
    const text = value === null ? "" : String(value);
    const harmless = typeof value === "string" && /^[=+\-@]/.test(text) ? `'${text}` : text;
    return /[",\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
  };
  find("[data-csv]").addEventListener("click", () => {
    const lines = [data.columns.map(({ title }) => title), ...order.map((index) => data.rows[index])];
    const text = lines.map((cells) => cells.map(csvCell).join(",") + "\n").join("");
    const link = make("a", { download: "objects.csv", href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  });

  // ---- head and controls
  const head = make("tr", {}, make("th", { scope: "col", class: "text" }, "picture"));
  data.columns.forEach(({ title, kind }, at) => {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      sort = { column: at, descending: sort.column === at ? !sort.descending : kind === "number" };
      choose();
    });
    head.append(make("th", { scope: "col", "data-at": at, class: kind === "text" ? "text" : "" }, button));
  });
  find("thead").append(head);
  root.querySelectorAll("select[data-column]").forEach((select) => {
    const values = [...new Set(data.rows.map((row) => row[select.dataset.column]).filter((value) => value !== null).map(String))].sort();
    select.append(...values.map((value) => make("option", { value }, value)));
    select.parentNode.hidden = values.length < 2;
    select.addEventListener("change", choose);
  });
  find("[data-search]").addEventListener("input", choose);
  find("[data-previous]").addEventListener("click", () => { page -= 1; show(); });
  find("[data-next]").addEventListener("click", () => { page += 1; show(); });
  choose();
})();
