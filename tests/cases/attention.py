"""Attention, positions, transformer blocks."""

from typing import Any

from cases.case import IDS, NOISE, Attending, Case
from padless import layers as L


def _attending() -> list[Case]:
    def heads(**more: Any) -> Any:
        return L.MultiHeadAttention(2, 4, **more)

    def groups(**more: Any) -> Any:
        return L.GroupQueryAttention(5, 4, 2, **more)

    columns = {"matches_unpadded": "its window counts columns, also those of gaps"}
    two, three = [(3,), (5,)], [(3,), (5,), (3,)]
    cases = [
        Case("Attention", lambda: L.Attention(), inputs=three),
        Case("Attention-scale", lambda: L.Attention(use_scale=True, dropout=0.5), inputs=three),
        Case("Attention-concat", lambda: L.Attention(use_scale=True, score_mode="concat"), inputs=three),
        Case("Attention-two", lambda: L.Attention(score_mode="concat"), inputs=[(3,), (3,)]),
        Case("AdditiveAttention", lambda: L.AdditiveAttention(), inputs=three),
        Case("AdditiveAttention-plain", lambda: L.AdditiveAttention(use_scale=False), inputs=three),
        Case("MultiHeadAttention-self", lambda: Attending(heads())),
        Case("MultiHeadAttention-causal", lambda: Attending(heads(value_dim=5, use_bias=False), causal=True)),
        Case("MultiHeadAttention-cross", lambda: Attending(heads(output_shape=7, use_gate=True)), inputs=two),
        Case("MultiHeadAttention-key", lambda: Attending(heads(kernel_regularizer="l2")), inputs=three),
        Case("MultiHeadAttention-activity", lambda: Attending(heads(activity_regularizer="l2"))),
        Case("MultiHeadAttention-window", lambda: Attending(heads(sliding_window=2)), known_violations=columns),
        Case(
            "MultiHeadAttention-dropout",
            lambda: Attending(heads(dropout=0.5)),
            known_violations=NOISE,
            options={"training": True},
        ),
        Case("GroupQueryAttention-self", lambda: Attending(groups())),
        Case("GroupQueryAttention-causal", lambda: Attending(groups(use_gate=True), causal=True)),
        Case("GroupQueryAttention-cross", lambda: Attending(groups(use_bias=False)), inputs=two),
        Case("PositionEmbedding", lambda: L.PositionEmbedding(9)),
        Case("PositionEmbedding-4D", lambda: L.PositionEmbedding(9), inputs=(5, 3)),
        Case("SinePositionEncoding", lambda: L.SinePositionEncoding(50)),
        Case("RotaryEmbedding", lambda: L.RotaryEmbedding(50), inputs=(4,)),
        Case("RotaryEmbedding-heads", lambda: L.RotaryEmbedding(50, 2.0, "yarn"), inputs=(3, 4)),
        Case(
            "TokenAndPositionEmbedding",
            lambda: L.TokenAndPositionEmbedding(7, 9, 3, mask_zero=True),
            inputs=IDS,
            options={"creates_mask": True},
        ),
        Case("TokenAndPositionEmbedding-narrowed", lambda: L.TokenAndPositionEmbedding(7, 9, 3), inputs=IDS),
    ]
    for first in (False, True):
        when = "pre" if first else "post"
        cases += [
            Case(f"TransformerEncoder-{when}", lambda f=first: L.TransformerEncoder(8, 2, normalize_first=f), inputs=(4,)),
            Case(
                f"TransformerDecoder-{when}",
                lambda f=first: L.TransformerDecoder(8, 2, activation="gelu", normalize_first=f),
                inputs=(4,),
            ),
            Case(
                f"TransformerDecoder-{when}-cross",
                lambda f=first: Attending(L.TransformerDecoder(8, 2, normalize_first=f)),
                inputs=[(4,), (6,)],
            ),
        ]
    return [
        *cases,
        Case(
            "TransformerEncoder-dropout",
            lambda: L.TransformerEncoder(8, 2, dropout=0.5),
            inputs=(4,),
            known_violations=NOISE,
            options={"training": True},
        ),
    ]


CASES = [*_attending()]
