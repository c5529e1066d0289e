"""Features from texts: TF-IDF with a truncated SVD, which downloads nothing, or a sentence encoder."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_ckd.arguments import as_integer
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.batches import Encoder, encode_batches, version_of
from pyg_ckd.datasets.markup import plain_texts
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_TFIDF = "tfidf"
_SENTENCES = "sentence-transformers"
_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_DIM = 128
_WORDS = 1 << 16
_FEW = 10
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana.
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Ideographs.
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e81-\u0edf"  # Thai and Lao.
    "\u1780-\u17d3\u17d7\u17dc-\u17e9\u1000-\u1049\u1050-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f]+"  # Khmer, Myanmar.
)
"""Letters and digits of scripts that have no blanks between words."""


def text_features(
    texts: Sequence[Any],
    encoder: str | Encoder = "tfidf",
    dim: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Turn the texts of items into features.

    Args:
        texts: One text per item; tags and entities of HTML are taken out. An empty one, one of white space,
            :obj:`None`, NaN or ``pandas.NA`` is missing.
        encoder: ``"tfidf"`` (TF-IDF weights of up to 65536 words, reduced with a truncated SVD; in scripts without
            blanks between words, such as Chinese, Japanese and Thai, two neighbouring characters count as a word),
            ``"sentence-transformers"`` or ``"sentence-transformers:MODEL"`` (the extra ``text``; a name on the model
            hub or a folder; by default all-MiniLM-L6-v2), or a callable that maps a list of texts to an array
            ``[B, d]``. (default: :obj:`"tfidf"`)
        dim: Number of columns of ``"tfidf"``, fewer if there are fewer texts or words. The other encoders have their
            own. (default: :obj:`None`, 128)
        seed: Seeds the SVD. (default: :obj:`0`)
        batch_size: Number of texts that an encoder gets at once. (default: :obj:`256`)
        cache: A folder that keeps finished batches, see :func:`encode_batches`; not used by ``"tfidf"``.
            (default: :obj:`None`)
        progress: If set to :obj:`False`, show no progress bar. (default: :obj:`True`)

    Returns:
        The features, float32 ``[N, d]``, zero where there are none, and the mask of the items that have them, bool
        ``[N]``. A text without a word that ``"tfidf"`` knows counts as missing.

    Raises:
        InputError: If the encoder is unknown, not installed or fails, or no text says anything.

    Warns:
        UserWarning: If ``"tfidf"`` finds no word in most texts that another text has.

    Example:
        >>> x, has = text_features(["red shoes", "", "blue shoes"], dim=2)
        >>> x.shape, has.tolist()
        ((3, 2), [True, False, True])
    """
    check_encoder(encoder, dim)
    texts = plain_texts(texts)
    there = np.array([bool(text) for text in texts], dtype=bool)
    given = list(filter(None, texts))
    if not given:
        raise InputError(f"texts: all {len(texts)} are empty, expected at least one; name other fields")
    if encoder == _TFIDF:
        rows, known = _tfidf(given, _DIM if dim is None else dim, seed)
        there[there] = known
    else:
        encode = sentence_encoder(_model(encoder)) if isinstance(encoder, str) else encoder
        rows = encode_batches(given, encode, batch_size, cache, name_of(encoder), progress, version_of(encoder))
    features = np.zeros((len(texts), rows.shape[1]), dtype=np.float32)
    features[there] = rows
    return features, there


def sentence_encoder(model: str, device: str | None = None) -> Encoder:
    r"""Return a sentence encoder of the package ``sentence-transformers``, as a callable for :func:`text_features`.

    Weights are read from the safe format alone, and no code that comes with a model is run.

    Args:
        model: A name on the model hub, or a folder.
        device: Where to compute. (default: :obj:`None`, the package chooses)

    Raises:
        InputError: If the package is not installed or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "encoder: sentence-transformers is not installed; run pip install 'pyg-ckd[text]', or use the encoder tfidf"
        ) from None
    try:
        net = SentenceTransformer(model, device=device, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"encoder: the model {model!r} cannot be loaded ({one_line(error):.200}); check its name, or give a folder "
            f"that holds it"
        ) from None

    def encode(texts: list[str]) -> np.ndarray:
        return net.encode(texts, batch_size=32, convert_to_numpy=True, show_progress_bar=False)

    return encode


def check_encoder(encoder: str | Encoder, dim: int | None) -> None:
    """Refuse an unknown encoder, and a number of columns that cannot be."""
    if isinstance(encoder, str) and encoder.partition(":")[0] not in (_TFIDF, _SENTENCES):
        raise unknown_name("encoder", encoder, (_TFIDF, _SENTENCES, f"{_SENTENCES}:MODEL"))
    if dim is not None and encoder != _TFIDF:
        raise InputError(f"dim: is {dim}, but the encoder {name_of(encoder)} has its own; leave it out")
    if dim is not None and as_integer(dim, "dim", expected="a positive number of columns") < 1:
        raise InputError(f"dim: is {dim}, expected a positive number of columns")


def name_of(encoder: str | Encoder) -> str:
    """Return the name of an encoder for messages and the cache; a folder has its whole path."""
    if not isinstance(encoder, str):
        return f"{encoder.__module__}.{getattr(encoder, '__qualname__', type(encoder).__qualname__)}"
    model = _model(encoder)
    return f"{_SENTENCES}:{Path(model).resolve() if Path(model).is_dir() else model}"


def _model(encoder: str) -> str:
    name = encoder.partition(":")[2] or _MODEL
    return str(as_path(name)) if name.startswith("~") else name


def _tfidf(texts: list[str], dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of the texts that have a word of the vocabulary, and the mask of these texts."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(strip_accents="unicode", stop_words="english", sublinear_tf=True, max_features=_WORDS)
    if any(map(_UNSPACED.search, texts)):
        words = vectorizer.build_analyzer()
        vectorizer = TfidfVectorizer(
            analyzer=lambda text: [*words(_UNSPACED.sub(" ", text)), *_neighbours(text)],
            sublinear_tf=True,
            max_features=_WORDS,
        )
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError:  # The vocabulary is empty.
        raise InputError(
            f"texts: none of {len(texts)} has a word of two letters that is not a stop word, e.g. {texts[0]!r:.80}; "
            f"name other fields"
        ) from None
    known = weights.getnnz(axis=1) > 0
    weights = weights[known]
    _warn_of_rare_words(weights)
    if weights.shape[1] == 1:  # A single word, which has nothing to be reduced to.
        return weights.toarray().astype(np.float32), known
    svd = TruncatedSVD(min(dim, *weights.shape), random_state=seed)
    with np.errstate(invalid="ignore"):  # Texts that are all alike explain no variance, which nobody asks for.
        return svd.fit_transform(weights).astype(np.float32), known


def _neighbours(text: str) -> list[str]:
    """Return the pairs of neighbouring characters within runs without blanks, and runs of one character."""
    found = []
    for run in _UNSPACED.findall(text):
        run = unicodedata.normalize("NFKC", run)  # Kana of half width, and marks that stand apart from their letters.
        found += [run] if len(run) == 1 else [run[at : at + 2] for at in range(len(run) - 1)]
    return found


def _warn_of_rare_words(weights: csr_matrix) -> None:
    """Warn if most texts have no word that another text has, so that they are like no other.

    Args:
        weights: The weights of words in texts, ``[texts, words]``.
    """
    shared = weights[:, weights.getnnz(axis=0) > 1].getnnz(axis=1) > 0
    alone = int((~shared).sum())
    if len(shared) >= _FEW and 2 * alone > len(shared):
        warnings.warn(
            f"texts: found {alone} of {len(shared)} without a word that another text has, so that the features hardly "
            f"tell which items are alike; give longer texts, or another encoder, such as encoder={_SENTENCES!r}",
            stacklevel=4,
        )
