"""Detection of a launcher's processes, in environments of SLURM, Open MPI and TPU hosts."""

import os

import jax
import pytest

from stsa_jax.distribution import processes
from stsa_jax.distribution.launcher import Place, find_place, has_other_tpu_hosts
from stsa_jax.errors import InputError

SLURM = {
    'SLURM_JOB_ID': '8195',
    'SLURM_STEP_NODELIST': 'node[007-010]',
    'SLURM_STEP_TASKS_PER_NODE': '1(x4)',
    'SLURM_NTASKS': '4',
    'SLURM_PROCID': '2',
    'SLURM_LOCALID': '0',
    'SLURM_NODEID': '2',
}
# Two nodes of two GPUs, a task for each.
SHARED = {'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'SLURM_NODEID': '1', 'SLURM_LOCALID': '1'}
ALL_GPUS = Place('SLURM', 'node007:61443', 4, 2, None)
ONE_GPU = ALL_GPUS._replace(devices=[1])
OPEN_MPI = {
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_RANK': '0',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
}
URI = {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'}


@pytest.mark.parametrize(
    'environment, expected',
    [
        ({}, None),
        # The only task of a node has all of its GPUs.
        (SLURM, ALL_GPUS),
        (SLURM | SHARED, ONE_GPU),
        # The launcher shows each task its own.
        (
            SLURM | SHARED | {'CUDA_VISIBLE_DEVICES': '1'},
            ALL_GPUS,
        ),
        (
            SLURM | SHARED | {'SLURM_GPUS_PER_TASK': '4'},
            ALL_GPUS,
        ),
        (
            SLURM | SHARED | {'CUDA_VISIBLE_DEVICES': '0,1'},
            ONE_GPU,
        ),
        (SLURM | {'SLURM_STEP_TASKS_PER_NODE': '3,1'}, ALL_GPUS),
        # The script of sbatch, and a step of one task.
        ({k: v for k, v in SLURM.items() if 'STEP' not in k}, None),
        (SLURM | {'SLURM_NTASKS': '1'}, None),
        (OPEN_MPI | URI, Place('Open MPI', '10.96.0.1:62624', 2, 1, None)),
        (OPEN_MPI, Place('Open MPI', None, 2, 1, None)),
        # mpirun within SLURM: its daemons are the steps' tasks.
        (SLURM | OPEN_MPI | URI, Place('Open MPI', '10.96.0.1:62624', 2, 1, None)),
        (OPEN_MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ],
)
def test_the_place_of_a_process(environment, expected):
    assert find_place(environment) == expected


@pytest.mark.parametrize(
    'nodes, first',
    [
        ('localhost', 'localhost'),
        ('a1,b2', 'a1'),
        ('gpu[001,007-015],host2', 'gpu001'),
        ('rack[2-3]node[01-04]-ib', 'rack2node01-ib'),
    ],
)
def test_the_first_host_of_slurms_list(nodes, first):
    place = find_place(SLURM | {'SLURM_STEP_NODELIST': nodes, 'JAX_COORDINATOR_PORT': '1234'})
    assert place.coordinator == f'{first}:1234'


@pytest.mark.parametrize(
    'environment, expected',
    [
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
        ({'TPU_WORKER_HOSTNAMES': 'a.svc,b.svc'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'a', 'TPU_PROCESS_ADDRESSES': 'a:8471,b:8471'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'localhost', 'MEGASCALE_NUM_SLICES': '2'}, True),
        ({}, None),  # Compute Engine
        ({'TPU_SKIP_MDS_QUERY': '1'}, False),
    ],
)
def test_hosts_of_tpus(environment, expected):
    assert has_other_tpu_hosts(environment) is expected


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` is called with, in an environment without a launcher."""
    for name in list(os.environ):
        if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_')):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **options: calls.append(options))
    return calls


def environ(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_task_of_slurm_joins_with_all_the_gpus_of_its_node(joined, monkeypatch):
    environ(monkeypatch, SLURM)
    processes.initialise()
    processes.initialise('other:99')  # another host for the coordinator
    processes.initialise('other:99', 8, 7)
    found = [(c['coordinator_address'], c['num_processes'], c['process_id']) for c in joined]
    assert found == [('node007:61443', 4, 2), ('other:99', 4, 2), ('other:99', 8, 7)]
    assert all(call['local_device_ids'] is None for call in joined)
    # JAX would look at SLURM's variables again, and take the GPU with the task's number.
    assert all(call['cluster_detection_method'] == 'deactivate' for call in joined)


def test_open_mpi_5_does_not_provide_the_coordinator(joined, monkeypatch):
    environ(monkeypatch, OPEN_MPI)
    with pytest.raises(InputError, match=r'Open MPI started 2 processes.* add --coordinator='):
        processes.initialise()
    assert not joined
    processes.initialise('first:99')
    assert joined[0]['process_id'] == 1 and joined[0]['num_processes'] == 2


def test_tpu_hosts_leave_finding_each_other_to_jax(joined, monkeypatch):
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', 'tpu,cpu')  # as JAX has it where there are TPUs
    try:
        processes.initialise()
        with monkeypatch.context() as patch:
            environ(patch, {'TPU_WORKER_HOSTNAMES': 'localhost'})
            processes.initialise()
    finally:
        jax.config.update('jax_platforms', before)
    environ(monkeypatch, {'TPU_WORKER_HOSTNAMES': 'a,b'})
    processes.initialise()  # no TPUs here, whatever the environment says
    assert len(joined) == 1 and 'coordinator_address' not in joined[0]


def test_processes_that_jax_does_not_find_are_reported(monkeypatch, joined):
    def fail(**_):
        raise ValueError('coordinator_address should be defined.')

    environ(monkeypatch, SLURM)
    monkeypatch.setattr(jax.distributed, 'initialize', fail)
    with pytest.raises(InputError, match=r'did not find each other .coordinator_address should'):
        processes.initialise()
