"""What is exported of a network that reads costs: from weights, costs and a temperature to both potentials.

The graph is made of parts, which are recorded one by one: what torch decides by looking at numbers are branches of
it, and a loop.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import onnx
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn

from metaot.amortize.costs import FITS, encoded, fitted, looked_at, priced, told_apart, without_forbidden
from metaot.models.costs import CostNetwork
from metaot.onnx.graph.sums import LogSums
from metaot.onnx.trace import recorded, renamed

INPUTS, WITH_G = ("a", "b", "C", "eps"), "with_g"
"""The inputs, and one more that need not be given: whether g is wanted."""
_OUTPUTS = {"f": ["batch", "n"], "g": ["batch", "m"], "spread": ["batch"]}


@final
class CostPrediction(nn.Module):
    """(a, b, C, order_a, order_b, eps) -> (f, spread), float64, for finite costs, batch n m.

    The heaviest atoms are chosen by the orders: weights of which no two that matter are equal. eps is one for each
    instance, or one for the batch; `spread` is by how many eps costs differ.
    """

    def __init__(self, model: CostNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        a, b, C, order_a, order_b, eps = inputs

        def choose(_a: Tensor, _b: Tensor, _C: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
            return order_a.topk(rows, -1).indices, order_b.topk(columns, -1).indices

        eps = eps + a[:, 0] * 0
        seen = encoded(a, b, eps[:, None], looked_at(a, b, C, self.model, choose), self.model)
        (f,) = self.model(*seen.inputs(self.model.cooling))
        return f.double() * seen.eps + seen.offset, seen.spread


def cost_graph(model: CostNetwork) -> onnx.ModelProto:
    """Return the graph (a, b, C, eps) -> (f, g, spread); costs may be infinite."""
    example = _Example(model)
    network = example.recorded(CostPrediction(model), "a b priced order_a order_b eps", ["f", "spread"])
    a, b, eps = (value for value in network.graph.input if value.name in INPUTS)
    (C,) = example.recorded(_Function(lambda C: C * 1), "C", ["C_same"]).graph.input
    eps.type.tensor_type.shape.dim[0].dim_param = "temperatures"
    whether = helper.make_tensor_value_info(WITH_G, TensorProto.BOOL, [])
    default = helper.make_tensor(WITH_G, TensorProto.BOOL, [], [True])
    parts = [_priced(example), _orders(example), Part.of(network), _best_g(example)]
    graph = helper.make_graph(
        [node for part in parts for node in part.nodes],
        "metaot",
        [a, b, C, eps, whether],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in _OUTPUTS.items()],
        [*(tensor for part in parts for tensor in part.tensors), default],
    )
    network.graph.CopyFrom(graph)
    return network


class Part(NamedTuple):
    """Nodes of the graph, the tensors stored for them, and the names of their results."""

    nodes: Sequence[NodeProto]
    tensors: Sequence[TensorProto]
    results: Sequence[str]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> "Part":
        """Return all of a recorded graph."""
        graph = proto.graph
        return cls(list(graph.node), list(graph.initializer), [value.name for value in graph.output])

    def branch(self, name: str) -> onnx.GraphProto:
        """Return them as a graph inside of the other one, whose values it sees."""
        results = [helper.make_tensor_value_info(result, TensorProto.DOUBLE, None) for result in self.results]
        return helper.make_graph(self.nodes, name, [], results, self.tensors)

    def then(self, results: Sequence[str], yes: "Part", no: "Part") -> "Part":
        """Return a part that does one or the other, by the last result of this one."""
        branches: dict[str, Any] = {"then_branch": yes.branch("then"), "else_branch": no.branch("else")}
        node = helper.make_node("If", self.results[-1:], list(results), **branches)
        return Part([*self.nodes, node], self.tensors, results)


def _priced(example: "_Example") -> Part:
    """Return what makes `priced` of C: the same, unless a cost is infinite."""
    step = example.part(fitted, "values count u v", ["u_next", "v_next", "moves"])
    body = helper.make_graph(
        step.nodes,
        "fit",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("moved", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in "uv"),
        ],
        [
            helper.make_tensor_value_info("moves", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(f"{name}_next", TensorProto.DOUBLE, None) for name in "uv"),
        ],
        step.tensors,
    )
    first = example.part(without_forbidden, "C", ["values", "count", "u_first", "v_first"])
    last = example.part(priced, "values count u v", ["priced_anew"])
    most = helper.make_tensor("most", TensorProto.INT64, [], [FITS])
    loop = helper.make_node("Loop", ["most", "", "u_first", "v_first"], ["u", "v"], body=body)
    anew = Part([*first.nodes, loop, *last.nodes], [*first.tensors, most, *last.tensors], last.results)
    test = example.part(lambda C: torch.isfinite(C.sum()), "C", ["all_finite"])
    return test.then(["priced"], _same("C"), anew)


def _orders(example: "_Example") -> Part:
    """Return what makes `order_a` and `order_b`: the weights, unless some are equal."""

    def are_tied(*weights: Tensor) -> Tensor:
        """Return whether weights are equal, also where `heaviest` would not have to know."""
        counts = []
        for w in weights:
            values = w.topk(w.shape[-1], -1).values
            counts.append((values[:, 1:] == values[:, :-1]).sum())
        return counts[0] + counts[1] > 0

    apart = example.part(told_apart, "a b priced", ["a_apart", "b_apart"])
    return example.part(are_tied, "a b", ["tied"]).then(["order_a", "order_b"], apart, _same("a", "b"))


def _best_g(example: "_Example") -> Part:
    """Return what makes g of f, where it is wanted; else zeros."""

    def best(f: Tensor, a: Tensor, b: Tensor, C: Tensor, eps: Tensor) -> Tensor:
        g = LogSums(eps + a[:, 0] * 0, [C]).best_g(f, a)
        unreached = torch.where(b > 0, torch.inf, 0.0)  # no source may go there, as in torch
        return torch.where(torch.isfinite(g), g, unreached)

    yes, no = example.part(best, "f a b C eps", ["g_best"]), example.part(lambda b: b * 0, "b", ["g_none"])
    return Part([], [], [WITH_G]).then(["g"], yes, no)


def _same(*names: str) -> Part:
    nodes = [helper.make_node("Identity", [name], [f"{name}_same"]) for name in names]
    return Part(nodes, [], [f"{name}_same" for name in names])


class _Example:
    """Problems on which the parts are recorded.

    They have fewer atoms than the network can see: so all sizes in between differ from those of the second example
    of a recording, which has more.
    """

    def __init__(self, model: CostNetwork) -> None:
        n, m = max(2, model.rows - 1), max(2, model.cells - 1)
        x, y = (torch.linspace(0, 1, size, dtype=torch.float64) for size in (n, m))
        C = (3 * (y - x[:, None]).abs()).cos().expand(3, -1, -1)
        a, b = ((1 + z).expand(3, -1) / (1 + z).sum() for z in (x, y))
        batch, rows, columns = (torch.export.Dim(name, min=1, max=2**15) for name in ("batch", "n", "m"))
        kinds = {
            "a order_a f": (a, {0: batch, 1: rows}),
            "b order_b": (b, {0: batch, 1: columns}),
            "C priced values count": (C, {0: batch, 1: rows, 2: columns}),
            "u": (C[..., :1], {0: batch, 1: rows}),
            "v": (C[..., :1, :], {0: batch, 2: columns}),
            "eps": (torch.full((3,), 0.1, dtype=torch.float64), {0: batch}),
        }
        self.known = {name: kind for names, kind in kinds.items() for name in names.split()}

    def recorded(self, module: nn.Module, inputs: str, outputs: list[str]) -> onnx.ModelProto:
        """Record a module, with inputs by their names."""
        names = inputs.split()
        values, sizes = zip(*(self.known[name] for name in names), strict=True)
        return recorded(module.eval().requires_grad_(False), values, sizes, inputs=names, outputs=outputs)

    def part(self, function: Callable[..., Any], inputs: str, outputs: list[str]) -> Part:
        """Record a function; all values inside have names of their own."""
        proto = self.recorded(_Function(function), inputs, outputs)
        return Part.of(renamed(proto, prefix=f"{outputs[-1]}_", kept=[*inputs.split(), *outputs]))


@final
class _Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)
