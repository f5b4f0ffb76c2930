"""Finding the image file that a prediction belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy

from bpr._paths import AnyPath
from bpr.pipeline.datasets.image_names import best_matches, describe_guess, fold, fold_stem
from bpr.pipeline.files import WORK, find_files
from bpr.pipeline.formats.images import IMAGE_SUFFIXES

# what lies beside images and is none: nobody misses it
_OTHER_FILES = frozenset(
    {"", ".json", ".jsonl", ".txt", ".md", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".zip",
     ".cache", ".pdf", ".log", ".npy", ".npz", ".py", ".ini", ".db", ".safetensors", ".bpr"}
)  # fmt: skip


class ImageIndex:
    """The image files below a folder, by name; see `find_files`.

    Subfolders in which a command has left its results hold no images: masks are PNGs too.

    Args:
        folder: of images.
        without: a folder, perhaps inside, whose files are results and not images.
        may_be_empty: whether a folder without images is fine: label files may embed theirs.

    Raises:
        ValueError: the folder is missing or holds no images.
    """

    def __init__(
        self, folder: AnyPath, without: AnyPath | None = None, may_be_empty: bool = False
    ) -> None:
        if not folder.is_dir():
            got = "got a file" if folder.exists() else "found none"
            raise ValueError(f"{folder}: expected a folder of images, {got}")
        self.folder = folder
        self._by_fold: dict[str, list[AnyPath]] = {}
        self._passed_over: Counter[str] = Counter()
        results = without.resolve() if without is not None else None
        if results is not None and not results.is_relative_to(folder.resolve()):
            results = None
        holds_results = {folder: False}
        for path in find_files(folder):
            if _is_result(path.parent, holds_results):
                continue
            if results is not None and path.resolve().is_relative_to(results):
                continue
            suffix = path.suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                self._by_fold.setdefault(fold(path.name), []).append(path)
            elif suffix not in _OTHER_FILES:
                self._passed_over[suffix] += 1
        if not self._by_fold and not may_be_empty:
            also = f"; {self.passed_over}" if self.passed_over else ""
            raise ValueError(f"{folder}: expected images ({_suffixes()}), found none{also}")

    @classmethod
    def of_photographs(cls, source: AnyPath, without: AnyPath | None = None) -> ImageIndex:
        """The images of a folder, or a single image.

        Args:
            source: the folder or the image.
            without: as in `ImageIndex`.

        Raises:
            ValueError: the source is missing, a file of another kind, or a folder without images.
        """
        if source.is_dir():
            return cls(source, without)
        if not source.exists():
            raise ValueError(f"{source}: expected an image or a folder of images, found none")
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(
                f"{source}: expected an image ({_suffixes()}) or a folder of images, "
                "got another file"
            )
        index = cls.__new__(cls)
        index.folder, index._passed_over = source.parent, Counter()
        index._by_fold = {fold(source.name): [source]}
        return index

    @property
    def passed_over(self) -> str:
        """The files that could be images of a kind that is not read, in words; nothing without."""
        if not self._passed_over:
            return ""
        kinds = ", ".join(
            f"{count} {suffix}" for suffix, count in sorted(self._passed_over.items())
        )
        return f"passed over in {self.folder}: {kinds}"

    def files(self) -> list[AnyPath]:
        """All images, sorted."""
        return sorted(path for found in self._by_fold.values() for path in found)

    def part(self, names: Iterable[str]) -> ImageIndex:
        """The same with images of these names or stems alone: small to send to another process."""
        part = copy(self)
        keys = {key for name in names for key in (fold(name), fold_stem(name))}
        part._by_fold = {key: self._by_fold[key] for key in keys if key in self._by_fold}
        return part

    def find(self, stems: Sequence[str], inside: str | None = None) -> AnyPath:
        """The one image with the first of the stems that any image has; see `image_names`.

        Args:
            stems: names without endings, perhaps with folders, in the order of preference.
            inside: the subfolder, "" for none, whose image is meant where it has one of this stem.

        Raises:
            ValueError: no image, or two with the same stem.
        """
        for stem in stems:
            name = stem if inside in (None, "", ".") else f"{inside}/{stem}"
            found = self._best(name, needs_ending=False)
            if found:
                return self._only(found, f"with the stem {stem!r}")
        wanted = " or ".join(f"{stem}.*" for stem in stems)
        raise ValueError(f"{self.folder}: expected an image {wanted} ({_suffixes()}), found none")

    def find_name(self, name: str) -> AnyPath:
        """The image of a file name that an annotation file gives.

        It is looked for at its path below the folder, then by its last part anywhere below, in
        every spelling of `image_names`.

        Raises:
            ValueError: no image, or several that the name does not tell apart.
        """
        found = self._best(name, needs_ending=True)
        if not found:
            raise ValueError(
                f"{self.folder}: expected one image {name!r}, found none ({_suffixes()})"
            )
        return self._only(found, repr(name))

    def describe_guess(self, name: str, path: AnyPath) -> str:
        """What was done to a name to find its file, for the report; nothing where it stands."""
        return describe_guess(name, path.relative_to(self.folder).as_posix())

    def _best(self, name: str, needs_ending: bool) -> list[AnyPath]:
        candidates = self._by_fold.get(fold(name) if needs_ending else fold_stem(name), [])
        files = [path.relative_to(self.folder).as_posix() for path in candidates]
        return [candidates[position] for position in best_matches(name, files, needs_ending)]

    def _only(self, found: Sequence[AnyPath], what: str) -> AnyPath:
        if len({path.resolve() for path in found}) > 1:  # links to one file are one
            names = ", ".join(path.relative_to(self.folder).as_posix() for path in found)
            raise ValueError(
                f"{self.folder}: expected one image {what}, found {len(found)}: {names}"
            )
        return found[0]


def _is_result(folder: AnyPath, known: dict[AnyPath, bool]) -> bool:
    """A command has written into the folder, or one above it; `known` begins with the uppermost."""
    if folder not in known:
        known[folder] = (folder / WORK).is_dir() or _is_result(folder.parent, known)
    return known[folder]


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
