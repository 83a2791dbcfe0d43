"""The grids of options and shapes on which each loss is tested."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from harness import Case
from reference import kernels


def _grid(**axes: tuple) -> Iterator[dict]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def info_nce() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        normalize=(True, False),
        exclude=(False, True),
        weighted=(False, True),
    )
    for count, axes in enumerate(grid):
        extra = {name: axes.pop(name) for name in ("exclude", "weighted")}
        temperature = 0.2 if axes["normalize"] else 0.8
        axes |= {"temperature": temperature, "chunk_size": chunks[count % 4]}
        yield Case(axes, (4, 4), (3, 3), (3,), **extra)
    told = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        masks=(("ids",), ("positions",), ("weighted", "exclude", "ids", "positions")),
    )
    for count, axes in enumerate(told):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        axes |= {"temperature": 0.3, "chunk_size": chunks[count % 4], **radius}
        yield Case(axes, (4, 4), (3, 3), (3,), **flags)
    heads = _grid(
        negatives=("group", "all", "cross"),
        head=(
            {"direction_weight": 0.75},
            {"margin": 0.7},
            {"hardest": 2},
            {"hardest": 1, "margin": 0.5, "direction_weight": 0.3},
            {"hardest": 3, "symmetric": False},
        ),
        masks=((), ("weighted", "exclude", "ids", "positions")),
    )
    for count, axes in enumerate(heads):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        size = {"temperature": 0.3} if count % 3 else {"normalize": False}
        axes |= axes.pop("head") | size | radius | {"chunk_size": chunks[count % 4]}
        yield Case(axes, (4, 4), (3, 3), (3,), **flags)
    yield Case({"hardest": 3, "temperature": 0.2}, (7, 7), exclude=True)
    yield Case()
    yield Case({"temperature": 0.07}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"negatives": "all", "chunk_size": 4}, (3, 3), (2, 2), (2, 2), True)
    yield Case({"negatives": "cross", "chunk_size": 2}, (3, 3), (2, 2), (2, 2))
    yield Case({"negatives": "all", "chunk_size": 2}, (6, 6))
    yield Case({"negatives": "cross"}, (1, 1), (3, 3), (4,))
    yield Case({}, (1, 1), (3, 3))


def nt_xent() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        normalize=(True, False),
        masks=((), ("ids",), ("positions",), ("weighted", "ids", "positions")),
        temperature=(0.2, 0.8),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        axes |= {"chunk_size": chunks[count % 4], **radius}
        yield Case(axes, (4, 4), (3, 3), (2,), **flags)
    yield Case({"temperature": 0.07}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"chunk_size": 2}, (6, 6))
    yield Case({}, (1, 1), (3, 3))


def joint(**options: tuple) -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    masks = ((), ("ids",), ("positions",), ("weighted", "ids", "positions"))
    for count, axes in enumerate(_grid(masks=masks, **options)):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        size = {"temperature": 0.2} if count % 3 else {"normalize": False}
        axes |= {"chunk_size": chunks[count % 4], "temperature": 0.8, **size, **radius}
        yield Case(axes, (4, 4), (3, 3), (2,) * (count % 2), **flags)
    for axes in _grid(**options):
        yield Case(axes)
        yield Case(axes, (5, 5), (3, 3), (2, 2), True)
        yield Case(axes, (1, 1), (3, 3))


def sigmoid_contrastive() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        normalize=(True, False),
        masks=((), ("exclude",), ("ids",), ("weighted", "exclude", "ids", "positions")),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radius = {"exclude_radius": 0.3} if "positions" in flags else {}
        size = {"scale": 4.0, "bias": -3.0} if axes["normalize"] else {"scale": 1.5}
        axes |= {"chunk_size": chunks[count % 4], **size, **radius}
        yield Case(axes, (4, 4), (3, 3), (3,), **flags)
    yield Case()
    yield Case({"bias": 0.0}, (5, 5), (3, 3), (2, 2), True)
    yield Case({"negatives": "cross", "chunk_size": 2}, (3, 3), (2, 2), (2, 2))
    yield Case({}, (1, 1), (3, 3))


def positives() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(
        negatives=("group", "all", "cross"),
        symmetric=(True, False),
        masks=(
            ("ids",),
            ("positions",),
            ("exclude", "ids"),
            ("weighted", "exclude", "ids", "positions"),
        ),
    )
    for count, axes in enumerate(grid):
        flags = dict.fromkeys(axes.pop("masks"), True)
        radii: tuple[dict, ...] = ({},)
        if "positions" in flags:
            radii = ({"jitter": 0.3}, {"jitter": 0.2, "exclude_radius": 0.5})
        size = {"temperature": 0.3} if count % 3 else {"normalize": False}
        axes |= {"chunk_size": chunks[count % 4], "temperature": 0.8, **size}
        for radius in radii:
            yield Case(axes | radius, (4, 4), (3, 3), (3,), **flags)
    yield Case()
    yield Case({"temperature": 0.2}, (7, 7), (3, 3), ids=True)
    radius = {"jitter": 0.3, "chunk_size": 3}
    yield Case(radius, (7, 7), (3, 3), positions=True)
    yield Case({}, (4, 4), (3, 3), (2, 2), True, ids=True)
    yield Case({}, (1, 1), (3, 3))


def targets() -> Iterator[Case]:
    for count, case in enumerate(positives()):
        options = dict(case.options)
        if "jitter" in options and case.weighted:
            options["spread"] = 0.2
        smoothing = {"label_smoothing": 0.1}
        yield replace(case, options=options | (smoothing if count % 2 else {}))
        if not case.positions:
            some = options | ({} if count % 2 else smoothing)
            yield replace(case, options=some, targets=True)


def labelled(**options: tuple) -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(normalize=(True, False), temperature=(0.2, 0.8), **options)
    for count, axes in enumerate(grid):
        axes |= {"chunk_size": chunks[count % 4]}
        yield Case(axes, (5, 4), (3, 3), (2,) * (count % 2), bool(count % 3))
    for axes in _grid(**options):
        yield Case(axes)
        yield Case(axes, (4, 4), (3, 3), (2, 2), True)
        yield Case(axes, (1, 1), (3, 3), (3,))


def hetero_center() -> Iterator[Case]:
    for count, margin in enumerate((0.0, 0.3)):
        yield Case({"margin": margin})
        yield Case({"margin": margin}, (7, 5), (3, 3), weighted=True)
        yield Case({"margin": margin}, (6, 6), (3, 3), (2, 2), bool(count))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def hetero_center_triplet() -> Iterator[Case]:
    for count, margin in enumerate((0.3, 0.0, 2.0)):
        yield Case({"margin": margin}, (8, 8))
        yield Case({"margin": margin}, (9, 7), (3, 3), weighted=True)
        yield Case({"margin": margin}, (8, 6), (3, 3), (2, 2), bool(count))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def cross_modality_contrastive_center() -> Iterator[Case]:
    yield Case({}, (8, 8))
    yield Case({}, (9, 7), (3, 3), weighted=True)
    yield Case({}, (8, 6), (3, 3), (2, 2))
    yield Case({}, (1, 1), (2, 2), (3,))
    yield Case({}, (4, 4), (2, 2), (5,), True)


def similarity_preservation() -> Iterator[Case]:
    chunks = [None, 1, 3, 100]
    grid = _grid(gamma=(0.0, 0.7, 1.0, 2.0), detach_target=(True, False))
    for count, axes in enumerate(grid):
        for turn in range(2):
            axes = axes | {"chunk_size": chunks[(count + count // 4 + 2 * turn) % 4]}
            yield Case(axes, (5, 5), (3, 3), (2,) * (count % 2), bool(turn))
    yield Case()
    yield Case({"chunk_size": 2}, (4, 4), (6, 6), (2, 2), True)
    yield Case({}, (1, 1), (3, 3))


def mmd() -> Iterator[Case]:
    estimators = ("biased", "unbiased", "paired", "linear")
    single = [
        kernels.GaussianKernel(1.3),
        kernels.GaussianKernel("mean"),
        kernels.GaussianKernel("median", factor=0.5),
        kernels.LaplacianKernel(1.3),
        kernels.LaplacianKernel("mean", norm=1),
        kernels.InverseMultiquadricKernel("median"),
        kernels.RationalQuadraticKernel(0.9, alpha=0.7),
        kernels.RationalQuadraticKernel("mean"),
        kernels.MaternKernel(1.1, nu=0.5),
        kernels.MaternKernel("mean", factor=2.0),
        kernels.MaternKernel("median", nu=2.5),
        kernels.PolynomialKernel(),
        kernels.PolynomialKernel(2, 0.5, 0.3),
        kernels.LinearKernel(),
        kernels.EnergyKernel(),
    ]
    mixture = kernels.MultiKernel(
        (kernels.GaussianKernel("median"), kernels.EnergyKernel()), (0.7, 0.2)
    )
    mean = kernels.MultiKernel(
        (kernels.GaussianKernel(0.8), kernels.LaplacianKernel("mean"))
    )
    nested = kernels.MultiKernel((mean, kernels.MaternKernel(2.0)))
    # Few digits: the buffer of a module in bfloat16 holds all of them.
    few = kernels.RandomFeatures(
        kernels.GaussianKernel(1.3), (((0.5, -1.0, 0.25), (1.5, 0.75, -0.5)),)
    )
    of_sum = kernels.RandomFeatures(
        kernels.MultiKernel(
            (kernels.GaussianKernel("mean"), kernels.LaplacianKernel(0.8)), (0.7, 0.2)
        ),
        (((0.5, -1.0, 0.25),), ((1.5, 0.75, -0.5),)),
    )
    joint = kernels.JointKernel(
        (mean, kernels.GaussianKernel("median", factor=0.5)), (1,)
    )
    placed = kernels.JointKernel(
        (kernels.LaplacianKernel("mean", norm=1), kernels.PolynomialKernel(2)), (2,)
    )
    of_joint = kernels.MultiKernel((joint, kernels.EnergyKernel()), (0.6, 0.3))
    sums = (mixture, mean, nested, few, of_sum, joint, placed, of_joint)
    for kernel, estimator in product((*single, None, *sums), estimators):
        options = {"kernel": kernel, "estimator": estimator}
        yield Case(options, (5, 5), (3, 3))
        if estimator != "linear":
            unequal = (5, 4) if estimator != "paired" else (5, 5)
            yield Case(options, unequal, (3, 3), (2,), True)
            yield Case(options | {"chunk_size": 2}, unequal, (3, 3), (2,), True)
            yield Case(options | {"chunk_size": 3}, unequal, (3, 3))
    for kernel, size in product(
        (None, kernels.GaussianKernel(1.3), kernels.LaplacianKernel("median"), of_sum),
        (None, 2, 3),
    ):
        options = {"kernel": kernel, "estimator": "block", "block_size": size}
        yield Case(options, (5, 5), (3, 3))
        yield Case(options | {"chunk_size": 2}, (5, 5), (3, 3), (2,))
    yield Case({"estimator": "biased"}, (4, 3), (2, 2), (2, 2))
    yield Case({"estimator": "unbiased"}, (4, 3), (2, 2), (2, 2))
    yield Case({"estimator": "paired"}, (4, 4), (2, 2), (2, 2))
    yield Case({"estimator": "linear"}, (4, 4), (2, 2), (2, 2))
    yield Case({}, (1, 3), (2, 2))


def coral() -> Iterator[Case]:
    for mean_weight, weighted, lead in product((0.0, 0.7), (False, True), ((), (2,))):
        yield Case({"mean_weight": mean_weight}, (6, 4), (3, 3), lead, weighted)
        options = {"mean_weight": mean_weight, "scale": "relative"}
        yield Case(options, (6, 4), (3, 3), lead, weighted)
    for count, options in enumerate(
        (
            {"metric": "root"},
            {"metric": "root", "scale": "relative"},
            {"metric": "log_euclidean"},
            {"metric": "log_euclidean", "ridge": 0.3},
            {"metric": "bures"},
            {"metric": "bures", "scale": "relative"},
        )
    ):
        yield Case(options, (9, 7), (3, 3))
        yield Case(options, (5, 5), (2, 2), (2, 2), True)
        yield Case(options | {"mean_weight": 0.7}, (9, 6), (3, 3), (2,), count < 3)
        yield Case(options, (4, 3), (6, 6))
    yield Case({"mean_weight": 1.0, "scale": "relative"}, (3, 2), (7, 7))
    yield Case({"mean_weight": 1.0}, (3, 3), (5, 5), (2, 2), True)
    yield Case({}, (3, 2), (7, 7))


def barlow_twins() -> Iterator[Case]:
    for eps, redundancy, weighted, lead in product(
        (0.0, 0.1), (5e-3, 0.8), (False, True), ((), (2,))
    ):
        options = {"eps": eps, "redundancy_weight": redundancy}
        yield Case(options, lead=lead, weighted=weighted)
    for weighted, lead in product((False, True), ((), (2,))):
        options = {"scale": "per_column", "redundancy_weight": 0.3}
        yield Case(options, lead=lead, weighted=weighted)
    yield Case({"scale": "per_column", "eps": 1e-3}, (4, 4), (6, 6))
    conventions = (
        "paper",
        "algorithm1",
        "official",
        "lightly",
        "solo-learn",
        "monai",
        "stable-pretraining",
        "hsic",
    )
    for count, convention in enumerate(conventions):
        options = {"convention": convention}
        yield Case(options)
        yield Case(options | {"redundancy_weight": 0.8}, weighted=True)
        options |= {"eps": 0.2, "redundancy_weight": 0.3}
        yield Case(options, lead=(2,), weighted=count % 2 == 0)
        yield Case(options | {"scale": "per_column"}, (4, 4), (6, 6))
    yield Case({}, (4, 4), (6, 6))
    yield Case({"eps": 1e-5}, (4, 4), (6, 6), (2, 2), True)


def vicreg() -> Iterator[Case]:
    conventions = (
        "official",
        "algorithm1",
        "paper",
        "lightly",
        "solo-learn",
        "vicregl",
    )
    for convention, weighted, lead in product(conventions, (False, True), ((), (2,))):
        yield Case({"convention": convention}, lead=lead, weighted=weighted)
        options = {
            "convention": convention,
            "invariance_weight": 3.0,
            "variance_weight": 2.0,
            "covariance_weight": 0.5,
            "target_std": 2.0,
            "eps": 0.01,
        }
        yield Case(options, lead=lead, weighted=weighted)
    yield Case({}, (4, 4), (6, 6), (2, 2), True)


def soft_decorrelation() -> Iterator[Case]:
    for weighted, lead in product((False, True), ((), (2,))):
        yield Case({}, (7, 6), (3, 3), lead, weighted)
        yield Case({}, (6, 7), (3, 2), lead, weighted)
    yield Case({}, (3, 3), (5, 5), (2, 2), True)


def dcca() -> Iterator[Case]:
    for objective, components, ridge, weighted in product(
        ("trace", "frobenius"), (None, 1, 2), (0.0, 1e-4, 0.3), (False, True)
    ):
        options = {
            "objective": objective,
            "num_components": components,
            "ridge": ridge,
        }
        dims = (3, 2) if components == 1 else (3, 3)
        yield Case(options, (8, 8), dims, weighted=weighted)
    for objective, components, weighted in product(
        ("trace", "frobenius"), (None, 2), (False, True)
    ):
        options = {"objective": objective, "num_components": components}
        options |= {"ridge": 0.2, "ridge_scale": "relative"}
        yield Case(options, (8, 8), (3, 2), (2,) * weighted, weighted)
    yield Case({}, (8, 8), (2, 3), (2,), True)
    yield Case({"objective": "frobenius"}, (8, 8), (3, 2), (2, 2), True)
    yield Case({"ridge": 0.1}, (4, 4), (6, 6))
    yield Case({"ridge": 0.1, "objective": "frobenius"}, (4, 4), (6, 5), (2,))
