"""Run by ``against_nnunet.py`` in MONAI's environment: a training loop as Auto3DSeg's, with notes of the time.

    PYTHON monai_side.py REQUEST

``SegResNetDS`` of width 32 with instance norm, ``CacheDataset`` with all cases, MONAI's transforms in loading
processes, AdamW, Dice and cross-entropy at four depths, autocast on a GPU. REQUEST is a JSON file: ``cases`` (each with
``image``, a list of files, and ``label``), ``classes`` (with the background), ``patch`` and ``spacing`` (x, y, z),
``batch``, ``device``, ``epochs``, ``iterations`` (an epoch), ``workers`` and ``events``, a file that gets one line of
JSON for each epoch: when its iterations began and ended, how many there were, and the network's parameters.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import SegResNetDS
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
)
from torch.utils.data import RandomSampler

BOTH = ("image", "label")
BLOCKS = (1, 2, 2, 4, 4)


def transforms(request: dict[str, Any]) -> Compose:
    """Load, crop, resample and normalize (cached); crop a patch and augment it (each time)."""
    patch, modes = request["patch"], ("bilinear", "nearest")
    return Compose(
        [
            LoadImaged(BOTH),
            EnsureChannelFirstd(BOTH),
            CropForegroundd(BOTH, source_key="image", allow_smaller=True),
            Spacingd(BOTH, pixdim=request["spacing"], mode=modes),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            SpatialPadd(BOTH, spatial_size=patch),
            EnsureTyped(BOTH),
            RandCropByLabelClassesd(BOTH, label_key="label", num_classes=request["classes"], spatial_size=patch),
            RandAffined(
                BOTH,
                prob=0.2,
                rotate_range=[0.26] * 3,
                scale_range=[0.2] * 3,
                mode=modes,
                spatial_size=patch,
                padding_mode="border",
            ),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
            RandScaleIntensityd("image", prob=0.5, factors=0.3),
            RandShiftIntensityd("image", prob=0.5, offsets=0.1),
            RandGaussianNoised("image", prob=0.2, mean=0, std=0.1),
            *(RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(3)),
            SelectItemsd(BOTH),
        ]
    )


def depth(patch: list[int]) -> int:
    """Stages: as Auto3DSeg's five, as far as the patch can be halved."""
    halvings = min((size & -size).bit_length() - 1 for size in patch)
    return min(len(BLOCKS), halvings + 1)


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    device = torch.device(request["device"])
    cores = len(os.sched_getaffinity(0))
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    data = CacheDataset(request["cases"], transforms(request), num_workers=cores, progress=False)
    sampler = RandomSampler(data, replacement=True, num_samples=request["batch"] * request["iterations"])
    loader = DataLoader(
        data,
        batch_size=request["batch"],
        sampler=sampler,
        num_workers=request["workers"],
        pin_memory=cuda,
        persistent_workers=request["workers"] > 0,
    )
    stages = depth(request["patch"])
    network = SegResNetDS(
        init_filters=32,
        in_channels=len(request["cases"][0]["image"]),
        out_channels=request["classes"],
        norm="instance",
        blocks_down=BLOCKS[:stages],
        dsdepth=min(4, stages - 1),
    ).to(device)
    criterion = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True, batch=True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=1e-5)
    scaler = torch.amp.GradScaler(device.type, enabled=cuda)
    parameters = sum(p.numel() for p in network.parameters())
    for _ in range(request["epochs"]):
        began, total, done = time.time(), 0.0, 0
        for batch in loader:
            image, label = (batch[name].as_tensor().to(device, non_blocking=True) for name in BOTH)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, enabled=cuda):
                loss = criterion(network(image), label)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += float(loss.detach())
            done += 1
        line = {"start": began, "end": time.time(), "iterations": done, "parameters": parameters, "loss": total / done}
        with open(request["events"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
