#!/usr/bin/env bash
# Everything that the benchmarks need on a machine that has Python with torch, and no package index:
#
#     benchmarks/pack.sh OUT [DATASET …]       from the checkout's root; PYTHON=… is an environment with autoseg, and
#                                              TARGET=3.12 the other machine's Python, HAS='pandas matplotlib' what
#                                              it has already
#
# OUT/packages.tar.xz holds nnU-Net, autoseg and what both need beside torch, numpy and scipy, with their commands in
# bin/; OUT/benchmarks the programs; OUT/NAME.tar.xz each dataset in nnU-Net's raw form, cut to the box of its voxels
# that are not zero. There:
#
#     mkdir site && tar xJf OUT/packages.tar.xz -C site && tar xJf OUT/NAME.tar.xz
#     export PYTHONPATH=$PWD/site PATH=$PWD/site/bin:$PATH
#     python OUT/benchmarks/against_nnunet.py NAME --nnunet site
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
python=${PYTHON:-python3} target=${TARGET:-3.12} out=$(mkdir -p "$1" && cd "$1" && pwd) work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shift
platforms=()
for version in 2_17 2_24 2_27 2_28 2_34; do platforms+=(--platform "manylinux_${version}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
# Each without what it depends on: torch, numpy and scipy are the other machine's own, and must stay so.
wheels=(simpleitk blosc2 ndindex numexpr msgpack pydantic annotated-types typing-inspection typing-extensions nibabel
  safetensors connected-components-3d rich markdown-it-py mdurl pygments typer click annotated-doc shellingham
  batchgenerators batchgeneratorsv2 dynamic-network-architectures nnunetv2==2.8.1 yacs importlib-resources graphviz
  requests urllib3 charset-normalizer pytorch-optimizer timm einops tifffile imagecodecs scikit-image scikit-learn
  joblib threadpoolctl pandas seaborn matplotlib tqdm)
for package in ${HAS:-}; do
  for place in "${!wheels[@]}"; do [ "${wheels[$place]}" != "$package" ] || unset "wheels[$place]"; done
done
pip=("$python" -m pip --quiet)
"${pip[@]}" download --no-deps --only-binary=:all: --python-version "$target" --implementation cp \
  "${platforms[@]}" -d "$work/wheels" "${wheels[@]}"
# pydantic takes one version of its core alone.
core=$("$python" - "$work/wheels" <<'P'
import pathlib, re, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("pydantic-*.whl"))
with zipfile.ZipFile(wheel) as file:
    metadata = next(file.read(name).decode() for name in file.namelist() if name.endswith("METADATA"))
print("pydantic-core==" + re.search(r"Requires-Dist: pydantic-core==([\w.]+)", metadata).group(1))
P
)
"${pip[@]}" download --no-deps --only-binary=:all: --python-version "$target" --implementation cp \
  "${platforms[@]}" -d "$work/wheels" "$core"
"${pip[@]}" wheel --no-deps -w "$work/wheels" acvl-utils future .
mkdir "$work/site"
for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
find "$work/site" \( -name __pycache__ -o -name tests \) -type d -prune -exec rm -rf {} +
"$python" - "$work/site" <<'P'
import configparser, pathlib, sys
site = pathlib.Path(sys.argv[1])
(site / "bin").mkdir(exist_ok=True)
for entries in site.glob("*.dist-info/entry_points.txt"):
    found = configparser.ConfigParser()
    found.optionxform = str
    found.read(entries)
    for name, target in (found["console_scripts"].items() if "console_scripts" in found else ()):
        if name.startswith(("autoseg", "nnUNetv2")):
            module, function = target.split(":")
            call = f"from {module} import {function}\n\nif __name__ == '__main__':\n    sys.exit({function}())\n"
            script = site / "bin" / name
            script.write_text(f"#!/usr/bin/env python3\nimport sys\n\n{call}")
            script.chmod(0o755)
P
tar c -C "$work/site" . | xz -T0 -6 >"$out/packages.tar.xz"
mkdir -p "$out/benchmarks"
cp benchmarks/*.py "$out/benchmarks/"
for dataset in "$@"; do
  name=$(basename "$dataset")
  "$python" benchmarks/raw_dataset.py "$dataset" "$work/raw/$name" --every 0 --crop
  tar c -C "$work/raw" "$name" | xz -T0 -6 >"$out/$name.tar.xz"
done
ls -l "$out"
