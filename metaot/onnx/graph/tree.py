"""All graphs of a file: the outer one, and those inside of conditions and loops."""

import onnx


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """Return a graph and those inside of it."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(part for each in inner for part in graphs(each))]
