"""Refine the masks of a data set from FiftyOne's App.

pip install bpr-refine fiftyone
mkdir -p "$(fiftyone config plugins_dir)"
cp -r examples/fiftyone_plugin "$(fiftyone config plugins_dir)/bpr"
"""

from functools import cache

import fiftyone as fo
from fiftyone import operators
from fiftyone.operators import types

from bpr import add_refined_field, load_refiner

MOST_SHOWN = 20
"""Failures that the App lists."""

refiner = cache(load_refiner)


class RefineMasks(operators.Operator):
    """Writes refined masks to a new field; the coarse ones stay."""

    @property
    def config(self):
        """How the App lists it."""
        return operators.OperatorConfig(
            name="refine_masks",
            label="Refine masks",
            description="Sharpen the edges of instance masks, into a new field",
            dynamic=True,
            allow_delegated_execution=True,
        )

    def resolve_input(self, ctx):
        """Ask for samples, the field with coarse masks and the name of the new field."""
        inputs = types.Object()
        fields = list(ctx.dataset.get_field_schema(embedded_doc_type=fo.Detections))
        if not fields:
            inputs.view("none", types.Error(label="This data set has no field of Detections."))
            return types.Property(inputs, invalid=True)
        inputs.view_target(ctx, action_description="Refine")
        inputs.enum("field", fields, required=True, default=fields[0], label="Coarse masks")
        asked = inputs.str("refined_field", required=True, default="refined", label="New field")
        asked.invalid = ctx.dataset.has_field(ctx.params.get("refined_field") or "")
        asked.error_message = "A field of this name is there. Name another."
        return types.Property(inputs, view=types.View(label="Refine masks"))

    def execute(self, ctx):
        """Refine. Samples that fail are named and keep an empty new field."""
        new = ctx.params["refined_field"]
        samples = ctx.target_view()
        failures = add_refined_field(samples, ctx.params["field"], new, refiner())
        ctx.ops.reload_dataset()
        found = samples.exists(new) if ctx.dataset.has_field(new) else samples.limit(0)
        return {"refined": len(found), "failures": failures[:MOST_SHOWN], "failed": len(failures)}

    def resolve_output(self, ctx):  # noqa: ARG002 (FiftyOne calls it so)
        """Show how many samples were refined, and which failed."""
        outputs = types.Object()
        outputs.int("refined", label="Samples refined")
        outputs.int("failed", label="Samples that failed")
        outputs.list("failures", types.String(), label=f"The first {MOST_SHOWN} that failed")
        return types.Property(outputs, view=types.View(label="Refine masks"))


def register(plugin):
    """Called by FiftyOne."""
    plugin.register(RefineMasks)
