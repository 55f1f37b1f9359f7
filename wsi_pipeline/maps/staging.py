"""The pN stage of a patient from the metastasis classes of the lymph nodes: CAMELYON17's rules, after TNM 7."""

from collections.abc import Sequence

from wsi_pipeline.errors import ConfigError

NODE_CLASSES = ("negative", "itc", "micro", "macro")  # as maps.lesions.metastasis_class names a slide
STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")  # in this order graded, by CAMELYON17's quadratic kappa


def pn_stage(nodes: Sequence[str]) -> str:
    """The stage of a patient from one class a node, out of NODE_CLASSES.

    pN0: all negative. pN0(i+): isolated tumour cells at most. pN1mi: micrometastases, no macrometastasis.
    With a macrometastasis, pN1 for 1-3 and pN2 for 4-9 positive nodes. A node with isolated tumour cells alone
    is not positive. Raises ConfigError on no nodes, another class, or ten positive nodes and more (pN3 in TNM,
    which needs more than the nodes to tell a from b and c).
    """
    unknown = sorted(set(nodes) - set(NODE_CLASSES))
    if unknown or not len(nodes):
        raise ConfigError(f"pn_stage: got {unknown or 'no nodes'}; give one of {', '.join(NODE_CLASSES)} a node")
    positive = sum(node in ("micro", "macro") for node in nodes)
    if "macro" not in nodes:
        return "pN1mi" if positive else "pN0(i+)" if "itc" in nodes else "pN0"
    if positive > 9:
        raise ConfigError(f"pn_stage: {positive} positive nodes; stages are told up to 9 (pN2)")
    return "pN1" if positive <= 3 else "pN2"
