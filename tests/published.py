"""Data that come with scikit-learn as two views, and their canonical correlations."""

import torch
from sklearn.datasets import load_digits, load_iris, load_linnerud, load_wine

__all__ = ["CORRELATIONS", "digits", "iris", "linnerud", "wine"]

Views = tuple[torch.Tensor, torch.Tensor]


def linnerud() -> Views:
    """Return exercises and bodies of 20 men, three columns each."""
    data = load_linnerud()
    return torch.tensor(data.data), torch.tensor(data.target)


def iris() -> Views:
    """Return length and width of sepals, and of petals."""
    data = torch.tensor(load_iris().data)
    return data[:, :2], data[:, 2:]


def wine() -> Views:
    """Return the first six and the last seven measurements."""
    data = torch.tensor(load_wine().data)
    return data[:, :6], data[:, 6:]


def digits(how: str = "halves") -> Views:
    """Return the left and right halves of 1797 digits, or "top and bottom".

    Some pixels are constant: 30 of 32 on the left vary, 31 on the right.
    """
    images = torch.tensor(load_digits().images)
    if how == "halves":
        views = images[:, :, :4], images[:, :, 4:]
    else:
        views = images[:, :4], images[:, 4:]
    return views[0].flatten(1), views[1].flatten(1)


CORRELATIONS = {
    # SAS PROC CANCORR, "fitness club".
    linnerud: (0.795608, 0.200556, 0.072570),
    # R, cancor(iris[, 1:2], iris[, 3:4]).
    iris: (0.940969, 0.123937),
    # scipy's angles between the columns, as `reference.dcca` has them.
    wine: (0.9029354, 0.7301548, 0.5166753, 0.4094105, 0.239633, 0.1260976),
}
