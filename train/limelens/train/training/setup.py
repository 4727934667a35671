"""The start of a run: divided data, its batches, and a network with its first weights.

It knows settings, and nothing of epochs or of a run's files.
"""

from __future__ import annotations

from pathlib import Path

from limelens.train import checkpoint
from limelens.train.architectures import Classifier, build
from limelens.train.config import ConfigError, TrainConfig
from limelens.train.data.augmentation import Augmentation
from limelens.train.data.batching import TrainingBatches
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError, Dataset
from limelens.train.data.label_table import Images
from limelens.train.data.sampling import EpochBatches
from limelens.train.training.distributed import Processes
from limelens.train.training.teacher import Teacher


def read_data(
    data: Path, config: TrainConfig, images: Images = None, macro: Path | None = None
) -> Dataset:
    """Reads data and divides it as the settings say; the arguments are those of `train`."""
    return read_dataset(
        data,
        seed=config.seed,
        images=images,
        macro=macro,
        task=config.task,
        val_from_train=config.val_from_train,
    )


def read_shared_data(
    processes: Processes,
    data: Path,
    config: TrainConfig,
    images: Images = None,
    macro: Path | None = None,
) -> Dataset:
    """Reads data as `read_data`, once on each machine.

    Raises:
        DataError: The data cannot be used, or the machines have different data.
        LimelensError: The same, if there are several processes.
    """
    dataset = processes.once(lambda: read_data(data, config, images, macro))
    if len({*processes.gathered(dataset.digest)}) > 1:
        raise DataError(f"{data} is not the same on all machines; copy that of the first one")
    return dataset


def training_batches(
    dataset: Dataset,
    config: TrainConfig,
    order: EpochBatches,
    processes: Processes,
    folder: Path | None = None,
) -> TrainingBatches:
    """Batches of augmented training images, drawn in an order; see `TrainingBatches`.

    The processes of a machine share the decoded images.
    """
    return TrainingBatches(
        dataset.splits["train"],
        len(dataset.labels),
        dataset.task,
        Augmentation(config.augment, config.resize, config.min_crop),
        order,
        processes.device,
        processes.num_threads(config.num_workers),
        folder,
        processes.once if processes.local_world_size > 1 else None,
    )


def build_model(config: TrainConfig, dataset: Dataset) -> Classifier:
    """The network with its first weights: random, ImageNet's or another run's.

    Raises:
        ArchitectureError: The network cannot be built.
        CheckpointError: The checkpoint to start from cannot be read.
        ConfigError: Its weights do not fit.
    """
    model = build(
        config.arch,
        len(dataset.labels),
        pretrained=config.pretrained,
        input_size=(config.resize.height, config.resize.width),
        dropout=config.dropout,
    )
    if config.start_from is None:
        return model
    loaded = checkpoint.load(Path(config.start_from))
    if loaded.config["arch"] != config.arch:
        raise ConfigError(f"{config.start_from} is {loaded.config['arch']}; expected {config.arch}")
    try:
        model.backbone.load_state_dict(loaded.model.backbone.state_dict())
    except RuntimeError as error:
        # The size of some layers depends on the input's, as in cnn3.
        raise ConfigError(
            f"the weights of {config.start_from} do not fit {config.arch} of "
            f"{config.resize.height}x{config.resize.width}; expected "
            f"{loaded.resize.height}x{loaded.resize.width}"
        ) from error
    if loaded.labels == dataset.labels:
        model.head.load_state_dict(loaded.model.head.state_dict())
    return model


def read_teacher(config: TrainConfig, dataset: Dataset) -> Teacher | None:
    """The network to learn from, if the settings name one.

    Raises:
        CheckpointError: Its checkpoint cannot be read.
        ConfigError: It has other labels.
    """
    if config.teacher is None:
        return None
    loaded = checkpoint.load(Path(config.teacher))
    if (loaded.labels, loaded.task) != (dataset.labels, dataset.task):
        raise ConfigError(
            f"the teacher {config.teacher} is {loaded.task} with the labels "
            f"{', '.join(loaded.labels)}; expected {dataset.task} with {', '.join(dataset.labels)}"
        )
    return Teacher(loaded, config.teacher_weight, config.teacher_temperature)
