#!/bin/sh
# On the GPU machine: checks and joins the parts, unpacks them and imports everything that playing needs.
#   sh start.sh PARTS STUDY [PYTHON]      PARTS: folder with part-*, sums.txt and these scripts; STUDY: where to unpack
# Ends with 1 if a part is missing or damaged, or if a module cannot be imported.
set -eu
parts=$(realpath "$1"); mkdir -p "$2"; study=$(realpath "$2"); python=${3:-python3}
(cd "$parts" && sha256sum --quiet -c sums.txt)
cat "$parts"/part-* | tar -x -C "$study"
"$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' "$study/work.tar.xz" "$study"
rm "$study/work.tar.xz"
cat > "$study/env.sh" <<EOF
export PYTHONPATH="$study/code:$study/site\${PYTHONPATH:+:\$PYTHONPATH}" HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 STUDY="$study" PYTHON="$python"
cd "$study/code"
EOF
. "$study/env.sh"
"$python" -m benchmarks.proving_ground check --work "$study/work"
