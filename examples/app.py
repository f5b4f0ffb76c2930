"""Refine masks in a browser: give masks, or click an object in the photograph.

pip install 'bpr-refine[detect]' gradio && python examples/app.py
"""

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from bpr import load_refiner
from bpr.pipeline.detection import DetectionSettings, InstanceDetector

refiner = load_refiner()
detector = InstanceDetector("lite", settings=DetectionSettings(score=0.1))


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The photograph with the outlines of masks."""
    drawn = image.copy()
    for mask in masks:
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, (60, 255, 60), max(image.shape[0] // 300, 1))
    return drawn


def refine(image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with (N, H, W) masks before and after."""
    return outlined(image, masks), outlined(image, refiner(image, masks))


def refine_files(image: np.ndarray | None, files: list[str] | None):
    """Refine mask files."""
    if image is None or not files:
        raise gr.Error("Give a photograph and at least one mask.")
    return refine(image, np.stack([np.asarray(Image.open(f).convert("L")) > 0 for f in files]))


def refine_clicked(image: np.ndarray, event: gr.SelectData):
    """Refine the smallest detected object at the click."""
    x, y = event.index
    masks = [item.mask for item in detector(image).instances]
    hit = [mask for mask in masks if mask.read((x, y, x + 1, y + 1)).any()]
    if not hit:
        raise gr.Error("No object was found there. Click another one, or give a mask.")
    return refine(image, min(hit, key=lambda mask: mask.area).to_array()[None])


with gr.Blocks(title="bpr", analytics_enabled=False) as app:
    gr.Markdown("# Sharp edges for masks\nGive masks, or click an object in the photograph.")
    with gr.Row():
        photograph = gr.Image(label="Photograph", type="numpy")
        result = gr.ImageSlider(label="Before | after", type="numpy")
    mask_files = gr.File(label="Masks (PNG)", file_count="multiple", file_types=["image"])
    gr.Button("Refine").click(refine_files, [photograph, mask_files], result)
    photograph.select(refine_clicked, photograph, result)

if __name__ == "__main__":
    app.launch()
