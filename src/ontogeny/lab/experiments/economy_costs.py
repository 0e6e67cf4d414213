"""What one token costs an arm's network, from its shape alone: values, FLOPs, bytes, and joules at stated prices."""

from dataclasses import dataclass

from ontogeny.genome.extract import rank_of, share_of
from ontogeny.genome.quantise import FULL, genome_bits
from ontogeny.lab.experiment import Arm, Embeddings, Setting
from ontogeny.model.grow import flops, layer_shapes, shape_of
from ontogeny.model.topk import top_units

# Horowitz 2014, Computing's energy problem (ISSCC), 45 nm: a float32 product 3.7 pJ and sum 0.9 pJ, the mean of both an
# operation; 32 bits read from DRAM 640 pJ.
JOULES_PER_FLOP = 2.3e-12
JOULES_PER_BYTE = 160e-12


@dataclass(frozen=True)
class Cost:
    """Of one token. ``stored`` values in all, ``used`` of them for a token; ``forward`` and ``training`` FLOPs.

    ``read``: bytes of the used values, float32 but for rounded bases, each read once a token (a batch of one).
    ``training`` is as trained: neither masks nor choices save a product there.
    """

    stored: int
    used: int
    forward: int
    training: int
    read: int

    @property
    def joules(self) -> float:
        """An estimate: what the FLOPs and the bytes of a forward pass take at the stated prices."""
        return JOULES_PER_FLOP * self.forward + JOULES_PER_BYTE * self.read


def token_cost(arm: Arm, setting: Setting, mode: Embeddings) -> Cost:
    """The cost of a dense arm, of one that chooses its units, of a mask, or of a full core in its subspaces.

    Attention and head are counted; norms and biases are not. A mask's positions are read too, a bit an entry.
    """
    shapes = layer_shapes(setting.model)
    vocabulary, width = setting.model["vocab_size"], shape_of(setting.model).width
    tables = vocabulary * width * (1 if setting.model.get("tie_word_embeddings") else 2)
    dense = sum(m * n for m, n in shapes.values())
    rest = flops(setting.model, setting.length) - 6 * dense  # attention 12 and head 6 a product, the forward's third
    used = vocabulary * width + width  # the head, and a row of the embedding
    if "density" in arm.recipe:
        layers = stored = round(share_of(arm.recipe["density"], "density") * dense)
        bits, training = FULL * layers + dense, 6 * dense
    elif arm.constraint == "subspace":
        rank = str(arm.recipe.get("rank", setting.rank))
        bases = genome_bits(shapes.values(), rank, 1)
        core = sum(rank_of(rank, min(shape)) ** 2 for shape in shapes.values())
        layers = stored = bases + core
        bits, training = (arm.bits or FULL) * bases + FULL * core, 4 * bases + 6 * core
    else:
        layers, stored, training = _used_of(shapes, arm.top) if arm.top else dense, dense, 6 * dense
        bits = FULL * layers
    frozen = 2 * vocabulary * width if mode == "frozen" else 0  # no gradient of the head
    read = (bits + FULL * used) // 8
    return Cost(stored + tables, layers + used, 2 * layers + rest // 3, training + rest - frozen, read)


def _used_of(shapes: dict[str, tuple[int, int]], top: float) -> int:
    """Entries that a token needs where it uses the largest units alone: what finds those is read whole."""
    total = 0
    for name, (m, n) in shapes.items():
        layer, _, role = name.partition(".mlp.")
        if role == "down":
            total += m * top_units(top, n)
        elif role == "up" and f"{layer}.mlp.gate" in shapes:
            total += top_units(top, m) * n
        else:
            total += m * n
    return total
