#!/bin/bash
# A run on SLURM: one Ray cluster per job, on its nodes. Submit again after a time limit: the same command continues.
#   sbatch configs/cluster/slurm.sh configs/quickstart.yaml
#SBATCH --job-name=hwsearch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --signal=INT@120            # Ctrl-C two minutes before the end
set -euo pipefail
CONFIG="$1"
export RAY_AUTH_MODE=token
[ -f "$HOME/.ray/auth_token" ] || ray get-auth-token --generate >/dev/null
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD="${NODES[0]}"
srun --nodes=1 --ntasks=1 -w "$HEAD" ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 15
# The last node measures: it carries the device and evaluates nothing.
for NODE in "${NODES[@]:1}"; do
  WHAT=(--num-cpus="$SLURM_CPUS_PER_TASK")
  [ "$NODE" = "${NODES[-1]}" ] && WHAT=(--num-cpus=0 --resources='{"device:cpu": 1}')
  srun --nodes=1 --ntasks=1 -w "$NODE" ray start --address="$HEAD:6379" "${WHAT[@]}" --block &
done
sleep 15
hwsearch run "$CONFIG" --set executor.address="$HEAD:6379"
