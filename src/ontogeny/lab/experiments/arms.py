"""The arms that experiments share: the donor, the random and dense ones, and a control for every property."""

from ontogeny.lab.experiment import Arm

PRIMARY = {
    "donor": Arm("donor", description="the donor's leading singular subspaces"),
    "random": Arm(
        "random", controls=("random",), description="independent Haar-random subspaces, drawn anew each replicate"
    ),
    "rotated": Arm("rotated", controls=("rotated",), description="the donor's, residual stream rotated at random"),
    "coherent": Arm("coherent", controls=("coherent",), description="random, but all layers share one residual frame"),
    "dense": Arm("dense", constraint="dense", description="no constraint: every weight trained"),
}

# Cells of the attribution: which of layer identity, frame and internal sides the arm keeps of the donor's.
CELLS = {
    frozenset({"layers", "frame", "internal"}): "donor",
    frozenset({"layers", "internal"}): "rotated",
    frozenset({"frame", "internal"}): "layer-shuffled",
    frozenset({"layers", "frame"}): "residual-only",
    frozenset({"internal"}): "shuffled-rotated",
    frozenset({"layers"}): "residual-rotated",
    frozenset({"frame"}): "residual-shuffled",
    frozenset[str](): "residual-shuffled-rotated",
}

ATTRIBUTION = {
    "layer-shuffled": Arm("layer-shuffled", controls=("layer-shuffled",)),
    "residual-only": Arm("residual-only", controls=("residual-only",)),
    "shuffled-rotated": Arm("shuffled-rotated", controls=("layer-shuffled", "rotated")),
    "residual-rotated": Arm("residual-rotated", controls=("rotated", "residual-only")),
    "residual-shuffled": Arm("residual-shuffled", controls=("layer-shuffled", "residual-only")),
    "residual-shuffled-rotated": Arm(
        "residual-shuffled-rotated", controls=("layer-shuffled", "rotated", "residual-only")
    ),
}

OTHERS = {
    "chimera": Arm("chimera", controls=("chimera",), donors="all", description="each layer from another donor"),
    "mean-only": Arm("mean-only", controls=("mean-only",), donors="all", description="what the donors share"),
    "internal-only": Arm("internal-only", controls=("internal-only",)),
    "left-only": Arm("left-only", controls=("left-only",), description="donor's U, random V"),
    "right-only": Arm("right-only", controls=("right-only",), description="donor's V, random U"),
    "middle": Arm("middle", recipe={"select": "middle"}, description="the middle singular directions"),
    "bottom": Arm("bottom", recipe={"select": "bottom"}, description="the last singular directions"),
    "fold-norms": Arm("fold-norms", recipe={"fold_norms": True}, description="norm gains folded in first"),
    "in-subspace": Arm("in-subspace", controls=("in-subspace",), description="another basis of the same spans"),
    "activation-pca": Arm(
        "activation-pca", constraint="activations", description="principal directions of activations"
    ),
    "low-rank": Arm("low-rank", constraint="low-rank", description="trainable A Bᵀ of the same rank"),
    "low-rank-equal": Arm("low-rank-equal", constraint="low-rank-equal", description="A Bᵀ of as many trained values"),
    "values-kept": Arm("values-kept", core="values", description="the donor's core, trained on"),
    "values-flipped": Arm("values-flipped", core="signs-flipped", description="its singular values' signs redrawn"),
    "values-permuted": Arm("values-permuted", core="permuted", description="its singular values reordered"),
}

NEEDS_SEVERAL = ("chimera", "mean-only")  # donors
