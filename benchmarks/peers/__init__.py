"""The peers: what else one can install, or copy, to compute these losses.

One adapter each, in its best configuration, and beside it the library's spelling of
what it computes (`ours`): their values and gradients are compared in float64 before
anything is timed. Where no spelling is equal, `differs` says why. Where a package can
be imported it is what runs; where it cannot, or is no package, its formula is written
afresh here, and `how` says so.
"""

from benchmarks.peers import info_nce, mmd, moments
from benchmarks.peers.registry import PEERS, Contestant, Loss

__all__ = ["PEERS", "Contestant", "Loss", "info_nce", "mmd", "moments"]
