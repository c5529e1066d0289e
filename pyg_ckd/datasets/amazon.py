"""The Amazon reviews of McAuley and others: three editions, any category, with texts and image features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_flag, as_names, shown
from pyg_ckd.data import build_data, feature_transform, imputation
from pyg_ckd.data.feedback import check_feedback, liked
from pyg_ckd.data.splits import (
    check_core,
    check_ratios,
    check_seed,
    cold_start_split,
    leave_one_out_split,
    random_split,
    temporal_split,
)
from pyg_ckd.datasets.arrays import one_line
from pyg_ckd.datasets.batches import Encoder
from pyg_ckd.datasets.cached import CachedGraph
from pyg_ckd.datasets.folder import listing
from pyg_ckd.datasets.npz import Impute, Transform
from pyg_ckd.datasets.places import find_file
from pyg_ckd.datasets.sources import (
    Interactions,
    Metadata,
    download,
    read_image_features,
    read_metadata,
    read_reviews,
    thin,
)
from pyg_ckd.datasets.sources.editions import EDITIONS, category_of
from pyg_ckd.datasets.splitting import shares_of
from pyg_ckd.datasets.text import check_encoder, text_features
from pyg_ckd.datasets.vectors import read_vectors
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path

_SPLITS = ("random", "lattice", "leave-one-out", "temporal", "cold-start", "none")

# PyTorch reports a full disk as a RuntimeError, in these words.
_FULL = ("PytorchStreamWriter", "inline_container", "iostream error")


class AmazonReviews(CachedGraph):
    r"""Reviews of one category of Amazon, with features of the texts and images of the products.

    ========= ================================================== ================================= =====================
    edition   reviews                                            texts                             images
    ========= ================================================== ================================= =====================
    2014 [2]_ May 1996 to July 2014, 5-core                      title, description, brand, ...    4096 features [1]_
    2018 [3]_ May 1996 to October 2018, 5-core                   title, description, feature, ...  addresses
    2023 [4]_ May 1996 to September 2023, all                    title, description, features, ... addresses
    ========= ================================================== ================================= =====================

    The four categories of 2014 on which multimodal recommenders are compared, as they are published:

    ============== ========= ========= ==============
    short name     users     items     interactions
    ============== ========= ========= ==============
    ``baby``          19,445     7,050        160,792
    ``beauty``        22,363    12,101        198,502
    ``sports``        35,598    18,357        296,337
    ``clothing``      39,387    23,033        278,677
    ============== ========= ========= ==============

    A review is an interaction, whatever its rating, unless ``min_rating`` is given. Of several reviews of a product by
    a user, the earliest counts, with its rating. The modality ``textual`` comes from the metadata, ``visual`` from the
    image features of 2014; items without them are marked in ``has_textual`` and ``has_visual``. ``data.user_id`` and
    ``data.item_id`` hold the ids in ascending order, ``data.image_url`` the address of an image of each item, empty if
    there is none.

    The texts, images and reviews belong to Amazon and to those who wrote them. The editors publish them for research,
    ask for the citations below, and state no licence: clarify any other use with them.

    Args:
        root: The folder for downloads (``root/raw/<edition>``), finished batches of an encoder and the cached graph.
        category: ``"baby"``, ``"beauty"``, ``"sports"``, ``"clothing"``, or any category by its name in the files,
            *e.g.*, ``"Video_Games"``.
        edition: ``"2014"``, ``"2018"`` or ``"2023"``. (default: :obj:`"2014"`)
        files: A folder that holds the files already, compressed or not, or the path of each of ``"reviews"``,
            ``"metadata"`` and ``"images"``; if one is replaced, the graph is made anew. (default: :obj:`None`, download
            what is not in ``root/raw/<edition>``)
        text: Fields of the metadata that make up the text; none leaves ``textual`` out.
            (default: ``("title", "description")``)
        encoder: Turns texts into features, see :func:`text_features`. (default: :obj:`"tfidf"`)
        dim: Number of columns of ``"tfidf"``. (default: :obj:`None`, 128)
        images: If set to :obj:`False`, do without the image features, a large file. (default: :obj:`None`, use them
            if the edition has them)
        vectors: Files with the vectors of further modalities, see :func:`read_vectors`; those of items that are not
            in the graph are left out. (default: :obj:`None`)
        k_core: Keep users and items with at least this many interactions. (default: :obj:`5`)
        split: ``"random"`` (:func:`random_split` with ``ratios``), ``"lattice"`` (as published with LATTICE [5]_ and
            used by its successors, CKD among them: of each user a fifth, rounded down and at least two, is held out at
            random; half of it, rounded down, for testing), ``"leave-one-out"``, ``"temporal"``, ``"cold-start"``, or
            ``"none"`` (all are training interactions, as for serving). (default: :obj:`"random"`)
        ratios: Shares of training, validation and test interactions; none with ``split="none"``. (default: :obj:`None`,
            ``(0.8, 0.1, 0.1)``)
        seed: Seeds the split and ``"tfidf"``. (default: :obj:`0`)
        cold_share: Share of cold items, see :func:`cold_start_split`. (default: :obj:`0.2`)
        impute: What stands in for missing features, see :func:`pyg_ckd.data.imputation`. (default: :obj:`"mean"`)
        min_rating: Keep reviews with at least this many stars. (default: :obj:`None`, all)
        url: The address of a mirror of the edition. (default: :obj:`None`, that of the editors)
        features: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        transform: Applied to the graph at every access. (default: :obj:`None`)
        pre_transform: Applied to the graph before it is cached. (default: :obj:`None`)
        force_reload: If set to :obj:`True`, rebuild the graph from the files. (default: :obj:`False`)

    Raises:
        InputError: If an argument, a download or a file is wrong, nothing is left, or the disk is full.

    Example:
        >>> data = AmazonReviews("data/amazon", "baby")[0]  # doctest: +SKIP
        >>> data.modalities  # doctest: +SKIP
        ['visual', 'textual']

    .. [1] McAuley, Targett, Shi, van den Hengel: *Image-based Recommendations on Styles and Substitutes*, SIGIR 2015
    .. [2] He, McAuley: *Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class Collaborative
           Filtering*, WWW 2016 (edition 2014)
    .. [3] Ni, Li, McAuley: *Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects*, EMNLP
           2019 (edition 2018)
    .. [4] Hou, Li, He, Yan, Chen, McAuley: *Bridging Language and Items for Retrieval and Recommendation*,
           arXiv:2403.03952, 2024 (edition 2023)
    .. [5] Zhang, Zhu, Liu, Wu, Wang, Wang: *Mining Latent Structures for Multimedia Recommendation*, MM 2021
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        category: str,
        edition: str = "2014",
        files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
        text: Sequence[str] = ("title", "description"),
        encoder: str | Encoder = "tfidf",
        dim: int | None = None,
        images: bool | None = None,
        vectors: Mapping[str, str | os.PathLike[str]] | None = None,
        k_core: int = 5,
        split: str = "random",
        ratios: Sequence[float] | None = None,
        seed: int = 0,
        cold_share: float = 0.2,
        impute: Impute = "mean",
        min_rating: float | None = None,
        url: str | None = None,
        features: Transform = "standardize",
        transform: Callable[[HeteroData], Any] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        edition = str(edition)
        if edition not in EDITIONS:
            raise unknown_name("edition", edition, EDITIONS)
        if not isinstance(split, str) or split.replace("_", "-") not in _SPLITS:
            raise unknown_name("split", split, _SPLITS)
        split = split.replace("_", "-")
        shares = shares_of(split, ratios)
        if vectors is not None and not isinstance(vectors, Mapping):
            raise InputError(f"vectors: found {shown(vectors)}, expected a dict such as {{'visual': 'clip.parquet'}}")
        if url is not None and not isinstance(url, str):
            raise InputError(f"url: found {url!r}, expected an address that begins with http")
        check_encoder(encoder, dim)
        feature_transform(features)  # Refused before anything is downloaded.
        imputation(impute)
        check_ratios(shares)
        check_seed(seed)
        check_core(k_core)
        check_feedback(min_rating, None)
        self.edition = edition
        self.category = category_of(category, edition)
        self.files = files
        self.text = as_names(text, "text")
        self.encoder = encoder
        self.dim = dim
        self.images = "images" in EDITIONS[edition].files if images is None else as_flag(images, "images")
        self.vectors = {m: str(as_path(path)) for m, path in (vectors or {}).items()}
        self.k_core = k_core
        self.split = split
        self.ratios = tuple(shares)
        self.seed = seed
        self.cold_share = cold_share
        self.impute = impute
        self.min_rating = min_rating
        self.url = url
        self.features = features
        self._check_modalities()
        names = ("edition", "category", "text", "encoder", "dim", "images", "vectors", "k_core", "split", "ratios")
        key = {name: getattr(self, name) for name in (*names, "seed", "cold_share", "impute", "features")} | {
            "files": _plain(files)
        }
        if self.vectors:
            key["stamps"] = _stamps(self.vectors.values())
        if files is not None:
            key["stamps of files"] = _stamps(self._given_files())
        if min_rating is not None:  # Else the name of the cached file stays what it was.
            key |= {"min_rating": min_rating, "of": "the earliest review"}
        try:
            super().__init__(self.process, key, as_path(root), transform, pre_transform, force_reload)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in _FULL):
                raise
            place, reason = getattr(error, "filename", None) or root, getattr(error, "strerror", None)
            raise InputError(
                f"{place}: cannot be written or read ({reason or one_line(error):.100}), and nothing half-written "
                f"stays; make room or choose another folder"
            ) from None

    @property
    def raw_dir(self) -> str:
        """The folder of the files of the edition."""
        return str(Path(self.root) / "raw" / self.edition)

    @property
    def raw_file_names(self) -> list[str]:
        """The names of the files that are needed."""
        return [Path(name).name for name in self._names().values()]

    def download(self) -> None:
        """Download the files that are not in :obj:`raw_dir`; an interrupted download is resumed."""
        base = (self.url or EDITIONS[self.edition].url).rstrip("/")
        for name in self._names().values():
            if _find(Path(self.raw_dir), Path(name).name) is None:
                download(f"{base}/{name}", Path(self.raw_dir) / Path(name).name)

    def process(self) -> HeteroData:
        """Make the graph from the files."""
        paths = self._paths()
        fields, rating = EDITIONS[self.edition].fields, EDITIONS[self.edition].rating
        frame = read_reviews(paths["reviews"], fields, None if self.min_rating is None else rating)
        mask = liked(frame, self.min_rating, None, str(paths["reviews"]))
        found = thin(frame, self.k_core, paths["reviews"], mask)
        metadata = Metadata()
        if "metadata" in paths:
            metadata = read_metadata(paths["metadata"], found.item_id, fields[1], self.text)
        features, has = self._features(found, metadata, paths)
        train, val, test = self._split(found)
        data = build_data(
            train,
            features,
            val=val,
            test=test,
            num_users=len(found.user_id),
            num_items=len(found.item_id),
            has=has,
            source=f"Amazon {self.edition} {self.category}",
            transform=self.features,
            impute=self.impute,
        )
        data.user_id, data.item_id = found.user_id, found.item_id
        if metadata.images:
            data.image_url = metadata.images
        return data

    def _download(self) -> None:
        """Leave it to :meth:`process`, which is not called if the graph is cached."""

    def _process(self) -> None:
        """Leave it to the base class, which executes no pickle."""

    def _check_modalities(self) -> None:
        if self.images and "images" not in EDITIONS[self.edition].files:
            raise InputError(
                f"images: the edition {self.edition} has addresses of images and no features; encode the images that "
                f"data.image_url names with encode_files, and give the result as vectors={{'visual': ...}}"
            )
        taken = [name for name, used in (("visual", self.images), ("textual", bool(self.text))) if used]
        for name in self.vectors:
            if name in taken:
                option = "images=False" if name == "visual" else "text=()"
                raise InputError(f"vectors: {name!r} is there already; choose another name, or leave it out: {option}")
            if not as_path(self.vectors[name]).is_file():
                raise InputError(f"vectors: {self.vectors[name]} of {name!r} is no file, expected .npy or .parquet")
        if not taken and not self.vectors:
            raise InputError("text, images, vectors: nothing gives the items features, expected one of them; add it")

    def _names(self) -> dict[str, str]:
        """Return the files that are needed, by kind, as they are named behind the address of the edition."""
        needed = {"reviews": True, "metadata": bool(self.text), "images": self.images}
        files = EDITIONS[self.edition].files
        return {kind: name.format(self.category) for kind, name in files.items() if needed[kind]}

    def _given_files(self) -> list[Path]:
        """Return the files that were given, as far as they are there."""
        if isinstance(self.files, Mapping):
            return [path for path in map(as_path, self.files.values()) if path.is_file()]
        found = [_find(as_path(str(self.files)), name) for name in self.raw_file_names]
        return [path for path in found if path is not None]

    def _paths(self) -> dict[str, Path]:
        if isinstance(self.files, Mapping):
            return _given(self.files, self._names())
        if self.files is None:
            self.download()
        folder = as_path(self.raw_dir if self.files is None else self.files)
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder, expected the one with {', '.join(self.raw_file_names)}")
        paths = {}
        for kind, name in self._names().items():
            path = _find(folder, Path(name).name)
            if path is None:
                without = {"metadata": ", or do without: text=()", "images": ", or do without: images=False"}
                raise InputError(
                    f"{folder}: has no {Path(name).name} ({kind} of {self.edition}, {self.category}); add "
                    f"it{without.get(kind, '')}; {listing(folder)}"
                )
            paths[kind] = path
        return paths

    def _features(
        self, found: Interactions, metadata: Metadata, paths: Mapping[str, Path]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return features and mask of every modality."""
        features, has = {}, {}
        if self.images:
            features["visual"], has["visual"] = read_image_features(paths["images"], found.item_id)
        if self.text:
            cache = Path(self.root) / "encoded"
            features["textual"], has["textual"] = text_features(
                metadata.texts, self.encoder, self.dim, self.seed, cache=cache
            )
        for m, path in self.vectors.items():
            features[m], has[m] = read_vectors(path, found.item_id, only_known=False)
        return features, has

    def _split(self, found: Interactions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.split == "random":
            return random_split(found.pairs, self.ratios, self.seed)
        if self.split == "none":
            return found.pairs, found.pairs[:, :0], found.pairs[:, :0]
        if self.split == "lattice":
            return lattice_split(found.pairs, self.seed)
        if self.split == "leave-one-out":
            return leave_one_out_split(found.pairs, found.timestamps)
        if self.split == "cold-start":
            return cold_start_split(found.pairs, self.ratios, self.seed, self.cold_share)
        return temporal_split(found.pairs, found.timestamps, self.ratios)


def lattice_split(pairs: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Split the interactions of each user at random, as the files published with LATTICE are.

    Of :math:`n` interactions, :math:`h = \max(2, \lfloor n / 5 \rfloor)` are held out, :math:`\lfloor h / 2 \rfloor` of
    them for testing and the others for validation. Users with fewer than three are in the training part only.

    Args:
        pairs: User row and item row, int64 ``[2, E]``, without duplicates.
        seed: The same seed gives the same split. (default: :obj:`0`)

    Returns:
        ``(train, val, test)``, each int64 ``[2, E']``, in the order of the input.
    """
    order = np.random.default_rng(seed).permutation(pairs.shape[1])
    by_user = pd.Series(pairs[0, order]).groupby(pairs[0, order])
    rank, count = np.empty_like(order), np.empty_like(order)
    rank[order], count[order] = by_user.cumcount(), by_user.transform("size")
    held = np.where(count < 3, 0, np.maximum(2, count // 5))
    part = np.select([rank < held // 2, rank < held], [2, 1], 0)
    return pairs[:, part == 0], pairs[:, part == 1], pairs[:, part == 2]


def _find(folder: Path, name: str) -> Path | None:
    """Return the file of a name, or the same without compression."""
    return find_file(folder, name) or find_file(folder, name.removesuffix(".gz"))


def _given(files: Mapping[str, str | os.PathLike[str]], names: Mapping[str, str]) -> dict[str, Path]:
    for kind in files:
        if kind not in ("reviews", "metadata", "images"):
            raise unknown_name("kind of file", kind, ("reviews", "metadata", "images"))
    for kind, name in names.items():
        if kind not in files:
            raise InputError(f"files: {kind!r} is missing, expected the path of a file like {Path(name).name}; add it")
    return {kind: as_path(files[kind]) for kind in names}


def _stamps(paths: Iterable[str | os.PathLike[str]]) -> list[tuple[int, int]]:
    """Return size and time of change of files."""
    stamps = [as_path(path).stat() for path in paths]
    return [(stamp.st_size, stamp.st_mtime_ns) for stamp in stamps]


def _plain(files: Any) -> Any:
    return {kind: str(path) for kind, path in files.items()} if isinstance(files, Mapping) else files and str(files)
