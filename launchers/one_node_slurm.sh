#!/usr/bin/env bash
# A private SLURM with one node, kept in one folder: to try sweeps on a cluster from a laptop, and for the tests.
#   launchers/one_node_slurm.sh up DIR       start it, wait until its node is idle, print what to source
#   launchers/one_node_slurm.sh status DIR   print what runs; exit code 3 if SLURM is not up
#   launchers/one_node_slurm.sh down DIR     cancel its jobs, stop its daemons, leave no process (the logs stay)
# It works as root, or as a plain user for the jobs of that user. It needs no accounting database, listens on this
# machine only, and writes nothing outside DIR. Repeating a command does no harm.
# Environment variables, read when `up` starts SLURM:
#   ONE_NODE_CPUS=16        CPUs that the node claims to have (default: all; more than that oversubscribes them). A driver as a
#                           job (driver_job.sh) holds one of them, so it needs at least 2
#   ONE_NODE_MAX_ARRAY=1001 MaxArraySize: array indices stay below it
#   ONE_NODE_PREEMPT=REQUEUE  what a job in `urgent` does to those of `main`: REQUEUE or CANCEL
#   ONE_NODE_GRACE=10       seconds a preempted job's steps (srun) go on after their SIGTERM; one that ends by itself in that
#                           time counts as completed and is not requeued. 0 is SLURM's own default: requeued at once, all of
#                           it gets SIGTERM, and SIGKILL after the KILL_WAIT. Later: scontrol update PartitionName=main GraceTime=0
#   ONE_NODE_KILL_WAIT=5    seconds between SIGTERM and SIGKILL of any job that is cancelled, preempted or out of time
set -euo pipefail
die() { echo "one_node_slurm: $*" >&2; exit 1; }

verb=${1-} dir=${2-}
[[ $# -eq 2 && $verb =~ ^(up|down|status)$ && -n $dir ]] || die "expected 'up DIR', 'down DIR' or 'status DIR', not '$*'"
dir=$(realpath -m -- "$dir") host=$(hostname -s) daemons=(munged slurmctld slurmd)
conf=$dir/slurm.conf
[[ $dir =~ ^/[A-Za-z0-9._/+@-]+$ ]] || die "SLURM takes no space or sign such as % or # in a path: $dir"
(( ${#dir} + ${#host} <= 75 )) || die "the path is too long for a socket (75 characters with the host's name): $dir"
[[ ${SLURM_CONF-} != "$conf" || -z ${SLURM_JOB_ID-} || $verb != down ]] || die "this shell is job $SLURM_JOB_ID of that very SLURM: leave it first"
# Variables of an enclosing cluster (sbatch defaults, the job we may run in) do not apply to ours.
mapfile -t inherited < <(compgen -e | grep -E '^(SLURM|SLURMD|SBATCH|SALLOC|SQUEUE|SINFO|SCANCEL|PMI)[0-9X]*_' || true)
(( ! ${#inherited[@]} )) || unset "${inherited[@]}"
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$conf

pid_of() {  # daemon -> its pid, if that process is still that daemon of this folder
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && grep -qsF -- "$dir/" "/proc/$pid/cmdline" && echo "$pid"
}
ours() {  # pids of the daemons, their slurmstepds and their jobs, found by their environment
  { grep -lzsxF -- "ONE_NODE_SLURM=$dir" /proc/[0-9]*/environ || true
    { grep -lzsxF -- "SLURM_CONF=$conf" /proc/[0-9]*/environ || true; } | xargs -r grep -lzs '^SLURMD_NODENAME=' || true
  } | cut -d/ -f3 | sort -u
}
is_up() { local d; for d in "${daemons[@]}"; do pid_of "$d" >/dev/null || return 1; done; }
within() {  # seconds command...: repeat the command until it succeeds, at most so long
  local end=$((SECONDS + $1)); shift
  until "$@"; do (( SECONDS < end )) || return 1; sleep 0.1; done
}
free_port() {  # below the ports that the kernel gives to clients
  local port
  while port=$((20000 + RANDOM % 12000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}
node_idle() { [[ $(timeout 5 sinfo -h -p main -o %T 2>/dev/null) =~ ^(idle|mixed|allocated)[-+]?$ ]]; }  # a suffix * means: no answer
queue_empty() { [[ -z $(timeout 5 squeue -h -o %A 2>/dev/null || echo "no answer") ]]; }
none_left() { [[ -z $(ours) ]]; }

configure() {
  local cpus=${ONE_NODE_CPUS:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)} memory ctld_port slurmd_port
  memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)  # MiB
  ctld_port=$(free_port)
  while slurmd_port=$(free_port); [[ $slurmd_port == "$ctld_port" ]]; do :; done
  cat >"$conf" <<CONF
ClusterName=one_node
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny  # this machine only
AuthType=auth/munge
# A requeued job waits for its old credential to expire: 120 s by default, 5 at least.
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
# Nothing here needs cgroups, systemd or a database.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
# CPUs and memory are handed out one by one; without DefMemPerCPU one job takes all the memory.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU=$((memory / cpus))
EnforcePartLimits=ALL  # a job that can never run is refused at once
MaxArraySize=${ONE_NODE_MAX_ARRAY:-1001}
MinJobAge=86400
OverTimeLimit=0
KillWait=${ONE_NODE_KILL_WAIT:-5}
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=${ONE_NODE_PREEMPT:-REQUEUE} GraceTime=${ONE_NODE_GRACE:-10} DefaultTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF DefaultTime=60
CONF
  cat >"$dir/env.sh" <<ENV
# Source this: sbatch, squeue, submitit and sa then talk to the private SLURM of this folder.
if [ "\${SLURM_CONF-}" != "$conf" ]; then  # an enclosing cluster's variables would mislead the clients
  unset _ \$(env | sed -n 's/^\\(\\(SLURM\\|SLURMD\\|SBATCH\\|SALLOC\\|SQUEUE\\|SINFO\\|SCANCEL\\|PMI[0-9X]*\\)_[A-Za-z0-9_]*\\)=.*/\\1/p')
fi
export SLURM_CONF="$conf"
ENV
}

start() {  # daemon arguments...; closes the caller's files first, or its pipes would stay open
  local name=$1
  if pid_of "$name" >/dev/null; then return; fi
  ( for fd in /proc/self/fd/*; do fd=${fd##*/}; (( fd <= 2 )) || eval "exec $fd>&-"; done
    cd "$dir" && ONE_NODE_SLURM=$dir exec "$@" ) </dev/null >>"$dir/log/$name.out" 2>&1 ||
    die "$name did not start: $(tail -n 3 "$dir/log/$name.out" "$dir/log/$name.log" 2>/dev/null)"
}

need_programs() {
  for program in "${daemons[@]}" sbatch; do
    command -v "$program" >/dev/null || die "$program is not installed. Debian and Ubuntu have it:
  apt-get install --no-install-recommends slurm-wlm munge
Without SLURM, run the same sweep in a pool on this machine: hydra/launcher=local"
  done
}

up() {
  mkdir -p "$dir"/{run,log,state,spool} || die "cannot write in $dir"
  chmod 755 "$dir/run" && chmod 700 "$dir"/{state,spool}
  [[ -s $dir/munge.key ]] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  none_left && configure
  # --force: munge refuses a socket that not every user of the machine can reach.
  start munged --force --key-file "$dir/munge.key" --socket "$dir/run/munge.socket" --pid-file "$dir/run/munged.pid" \
    --log-file "$dir/log/munged.log" --seed-file "$dir/run/munge.seed"
  start slurmctld -f "$conf"
  start slurmd -f "$conf"
  { within 30 is_up && within 30 node_idle; } || die "the node is not idle after 30 s; its logs: $(tail -n 5 "$dir"/log/*.log)"
  echo "up. To use it:  source $dir/env.sh"
}

down() {
  if is_up; then  # jobs first and gently, SIGTERM then SIGKILL
    timeout 10 squeue -h -o %F | sort -u | xargs -r timeout 20 scancel -- || true
    within 20 queue_empty || true
  fi
  for signal in TERM KILL; do
    ours | xargs -r kill -s "$signal" 2>/dev/null || true
    if within 5 none_left; then rm -f "$dir"/run/*; echo "down"; return; fi
  done
  die "still running: $(ours | tr '\n' ' ')"
}

status() {
  for d in "${daemons[@]}"; do echo "$d: $(pid_of "$d" || echo "not running")"; done
  is_up || return 3
  timeout 10 sinfo -o '%P %T %c CPUs, %m MB, priority %p' && timeout 10 squeue -o '%.14i %.9P %.20j %.11T %.10M %.4C %R'
}

if [[ $verb == up ]]; then
  need_programs
  mkdir -p "$dir" || die "cannot make $dir"
fi
if [[ $verb == status || ! -d $dir ]]; then "$verb"; exit; fi
exec {lock}>"$dir/lock"
flock -w 120 "$lock" || die "another up or down works on $dir"
"$verb"
