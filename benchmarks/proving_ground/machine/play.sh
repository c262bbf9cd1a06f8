#!/bin/sh
# On the GPU machine, after start.sh: plays in the background until MINUTES from now, and returns at once.
#   sh play.sh STUDY MINUTES MODEL=PROCESSES ...      for example: sh play.sh /study 9 qwen-0.5b=3 smollm2-135m=2
# These five fill 140 GB; of eight, players ran out of memory and played one run at a time.
# TOKENS (60000): of a step of runs that train side by side; DEVICE (auto); CARDS: GPUs that players take in turn, for example "0 1". See how far it is: sh play.sh STUDY poll. Rows come to STUDY/work/results/; what players print to STUDY/work/logs/.
set -eu
. "$(realpath "$1")/env.sh"
if [ "$2" = poll ]; then exec "$PYTHON" -m benchmarks.proving_ground poll --work "$STUDY/work"; fi
minutes=$2; shift 2
mkdir -p "$STUDY/work/logs"
setsid nohup "$PYTHON" -u -m benchmarks.proving_ground play --work "$STUDY/work" --minutes "$minutes" --processes "$@" \
  --device "${DEVICE:-auto}" --tokens-at-once "${TOKENS:-60000}" ${CARDS:+--cards $CARDS} >> "$STUDY/work/logs/play.log" 2>&1 < /dev/null &
echo "playing until $minutes minutes from now"
