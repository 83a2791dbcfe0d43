"""From the feature maps of two modalities to the paired rows that the losses take."""

from xmodal_losses.dense.bilinear import gather_rows
from xmodal_losses.dense.places import Places, sample_positions
from xmodal_losses.dense.rows import PairedRows, paired_rows

__all__ = [
    "PairedRows",
    "Places",
    "gather_rows",
    "paired_rows",
    "sample_positions",
]
