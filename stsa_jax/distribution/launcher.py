"""Reads the environment variables that a job's launcher sets for each process."""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """The position of this process in the job."""

    launcher: str
    coordinator: str | None  # 'host:port' of process 0; None if the launcher does not provide it
    num_processes: int
    process_id: int
    devices: list[int] | None  # the host's GPUs of this process; None for all visible ones


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The place in a SLURM or Open MPI job; None outside of one, or for a single process.

    The only task on a node uses all visible GPUs. One of several uses the GPU with its local rank,
    which is JAX's rule, unless the launcher makes only its own visible to each task.
    """
    place = _open_mpi(environment) or _slurm(environment)
    return place if place and place.num_processes > 1 else None


def _open_mpi(environment: Mapping[str, str]) -> Place | None:
    if 'OMPI_COMM_WORLD_SIZE' not in environment:
        return None
    # Such as '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911', for the host that runs mpirun;
    # version 5 has no equivalent.
    uri = environment.get('OMPI_MCA_orte_hnp_uri', '')
    host = re.search(r'tcp://([^,:]+)|tcp6://\[([^,\]]+)', uri)
    coordinator = None
    if host:
        number = int(uri.split('.')[0]) // 4096  # the low bits are always the same
        coordinator = f'{host[1] or f"[{host[2]}]"}:{_port(environment, number)}'
    return Place(
        'Open MPI',
        coordinator,
        int(environment['OMPI_COMM_WORLD_SIZE']),
        int(environment['OMPI_COMM_WORLD_RANK']),
        _own_devices(
            environment,
            int(environment.get('OMPI_COMM_WORLD_LOCAL_RANK', 0)),
            int(environment.get('OMPI_COMM_WORLD_LOCAL_SIZE', 1)),
        ),
    )


def _slurm(environment: Mapping[str, str]) -> Place | None:
    # The sbatch script has all of them except the step's nodes: it is not a task of the job.
    needed = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID')
    if not all(name in environment for name in needed):
        return None
    # Such as 'node[001,007-015]-ib,host2', whose first node is 'node001-ib'.
    nodes = environment['SLURM_STEP_NODELIST']
    host = re.sub(r'\[(\w+)[^\]]*\]', r'\1', nodes).split(',')[0]
    tasks = environment.get('SLURM_STEP_TASKS_PER_NODE', '1')  # such as '8(x3),4'
    counts = [
        int(count)
        for count, times in re.findall(r'(\d+)(?:\(x(\d+)\))?', tasks)
        for _ in range(int(times or 1))
    ]
    node = min(int(environment.get('SLURM_NODEID', 0)), len(counts) - 1)
    return Place(
        'SLURM',
        f'{host}:{_port(environment, int(environment["SLURM_JOB_ID"]))}',
        int(environment.get('SLURM_STEP_NUM_TASKS', environment['SLURM_NTASKS'])),
        int(environment['SLURM_PROCID']),
        _own_devices(environment, int(environment.get('SLURM_LOCALID', 0)), counts[node]),
    )


def _own_devices(environment, local_id: int, tasks_on_node: int) -> list[int] | None:
    visible = environment.get('CUDA_VISIBLE_DEVICES', environment.get('ROCR_VISIBLE_DEVICES', ''))
    one_is_shown = visible != '' and ',' not in visible
    chosen = 'SLURM_GPUS_PER_TASK' in environment or 'JAX_LOCAL_DEVICE_IDS' in environment
    return None if tasks_on_node == 1 or one_is_shown or chosen else [local_id]


def _port(environment, job: int) -> str:
    """One of the last 4096 ports, so that two jobs rarely use the same."""
    return environment.get('JAX_COORDINATOR_PORT', str(61440 + job % 4096))


def has_other_tpu_hosts(environment: Mapping[str, str]) -> bool | None:
    """Whether this TPU host is one of several; None if the environment does not say.

    GKE sets it in the environment. On Compute Engine JAX asks the metadata server.
    """
    hosts = environment.get('TPU_PROCESS_ADDRESSES', environment.get('TPU_WORKER_HOSTNAMES'))
    if int(environment.get('MEGASCALE_NUM_SLICES', 1)) > 1:
        return True
    if hosts is None:
        return False if 'TPU_SKIP_MDS_QUERY' in environment else None
    return ',' in hosts
