"""Which GPUs the daemon uses, and their names, from the driver's answers, without a GPU."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.asr.cuda import Gpu, check_libraries, check_visible, choose_devices, only_visible
from subtitled.errors import ConfigError, ModelError

FOUR = [
    Gpu(0, "GPU-aaaa1111-0000", "NVIDIA H200"),
    Gpu(1, "GPU-aaaa2222-0000", "NVIDIA H200"),
    Gpu(2, "GPU-bbbb3333-0000", "NVIDIA L4"),
    Gpu(3, "GPU-cccc4444-0000", "NVIDIA L4"),
]


def indices(gpus: list[Gpu]) -> list[int]:
    return [gpu.index for gpu in gpus]


def test_every_gpu_is_visible_where_nothing_is_said() -> None:
    assert only_visible(FOUR, None) == FOUR


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1,2,3", [0, 1, 2, 3]),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 3 , 1 ", [3, 1]),
        ("GPU-bbbb3333-0000", [2]),
        ("GPU-bb", [2]),
        ("GPU-cccc,0", [3, 0]),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(visible: str, expected: list[int]) -> None:
    assert indices(only_visible(FOUR, visible)) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("0,7,1", [0]),
        ("none", []),
        ("0,,1", [0]),
        ("GPU-aaaa", []),
        ("GPU-", []),
        ("1,MIG-1234", [1]),
    ],
)
def test_an_entry_that_names_no_single_gpu_ends_the_list(visible: str, expected: list[int]) -> None:
    """As CUDA itself has it: "-1" and what is not there hide all that follows; an ambiguous UUID names nothing."""
    assert indices(only_visible(FOUR, visible)) == expected


@pytest.mark.parametrize("visible", ["0,0", "1,GPU-aaaa2222", "GPU-cccc,GPU-cccc4444"])
def test_a_gpu_that_is_named_twice_is_one_gpu(visible: str) -> None:
    """CUDA refuses such a list; whatever is made of it, no two workers share a GPU."""
    found = only_visible(FOUR, visible)
    assert len(found) == len(set(indices(found)))


DIVIDED = [
    Gpu(0, "MIG-1111aaaa-0000", "H100 MIG 3g.40gb", "GPU-dddd0000-0000"),
    Gpu(0, "MIG-2222bbbb-0000", "H100 MIG 3g.40gb", "GPU-dddd0000-0000"),
    Gpu(1, "GPU-eeee0000-0000", "NVIDIA H100"),
]


def test_each_mig_instance_is_a_device_of_its_own() -> None:
    """CUDA sees one instance in a process, and only by its own UUID."""
    devices = choose_devices("auto", DIVIDED)
    assert [(device.slot, device.visible) for device in devices] == [
        ("gpu0", "MIG-1111aaaa-0000"),
        ("gpu1", "MIG-2222bbbb-0000"),
        ("gpu2", "GPU-eeee0000-0000"),
    ]
    [device] = choose_devices(("cuda:MIG-2222bbbb-0000",), DIVIDED)
    assert device.visible == "MIG-2222bbbb-0000"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("MIG-2222bbbb-0000", ["MIG-2222bbbb-0000"]),
        ("MIG-2222,1", ["MIG-2222bbbb-0000", "GPU-eeee0000-0000"]),
        ("0", ["MIG-1111aaaa-0000", "MIG-2222bbbb-0000"]),
        ("GPU-dddd", ["MIG-1111aaaa-0000", "MIG-2222bbbb-0000"]),
        ("1,0", ["GPU-eeee0000-0000", "MIG-1111aaaa-0000", "MIG-2222bbbb-0000"]),
        ("MIG-", []),
    ],
)
def test_mig_instances_are_named_by_their_own_or_by_their_gpu(visible: str, expected: list[str]) -> None:
    assert [gpu.uuid for gpu in only_visible(DIVIDED, visible)] == expected


@pytest.mark.parametrize("visible", ["MIG-9999", "0,7", "GPU-aaaa", "0,0", "x"])
def test_a_name_that_cuda_would_pass_over_in_silence_is_a_fault(visible: str) -> None:
    with pytest.raises(ConfigError, match="0 = GPU-aaaa1111-0000"):
        check_visible(FOUR, visible)


@pytest.mark.parametrize("visible", ["", "-1", "none", "0,1", "2,-1,1", "GPU-bb"])
def test_what_is_meant_is_no_fault(visible: str) -> None:
    check_visible(FOUR, visible)


def test_without_a_driver_nothing_can_be_said_about_names() -> None:
    check_visible([], "0")


def test_a_missing_cuda_library_is_reported_with_its_remedy() -> None:
    try:
        ctypes.CDLL("libcublas.so.12")
    except OSError:
        with pytest.raises(ModelError, match="install the package nvidia-cublas-cu12"):
            check_libraries()
    else:
        check_libraries()


@given(st.text(st.sampled_from("0123 ,-GPUabc"), max_size=30))
def test_only_what_is_there_is_visible(visible: str) -> None:
    found = only_visible(FOUR, visible)
    assert set(indices(found)) <= {0, 1, 2, 3}
    assert len(found) == len(set(indices(found)))


def test_auto_is_every_gpu_in_a_slot_of_its_own() -> None:
    devices = choose_devices("auto", FOUR)
    assert [device.slot for device in devices] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert {device.kind for device in devices} == {"cuda"}
    assert [device.visible for device in devices] == [gpu.uuid for gpu in FOUR]
    assert devices[2].name == "NVIDIA L4"


def test_auto_without_a_gpu_is_one_cpu_slot() -> None:
    [device] = choose_devices("auto", [])
    assert (device.slot, device.kind, device.visible) == ("cpu0", "cpu", "")


def test_a_list_is_taken_in_its_order() -> None:
    devices = choose_devices(("cpu", "cuda:2", "cpu", "cuda:GPU-aaaa2222-0000"), FOUR)
    assert [device.slot for device in devices] == ["cpu0", "gpu2", "cpu1", "gpu1"]
    assert [device.visible for device in devices] == ["", FOUR[2].uuid, "", FOUR[1].uuid]


def test_numbers_count_what_is_visible() -> None:
    """With CUDA_VISIBLE_DEVICES=3,1 the device cuda:0 is the driver's GPU 3."""
    [device] = choose_devices(("cuda:0",), only_visible(FOUR, "3,1"))
    assert device.visible == FOUR[3].uuid


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_devices(("cuda:9", "cpu", "cuda:GPU-dddd", "cuda:1", "cuda:GPU-aaaa2222-0000"), FOUR)
    first, second, third = caught.value.faults
    assert first.startswith(
        'pool.devices: got "cuda:9", which does not exist; available GPUs: cuda:0 (NVIDIA H200)'
    )
    assert '"cuda:GPU-dddd"' in second
    assert '"cuda:GPU-aaaa2222-0000" names GPU 1 a second time' in third


def test_a_gpu_where_there_is_none_is_a_fault_that_says_so() -> None:
    with pytest.raises(ConfigError, match="available GPUs: none"):
        choose_devices(("cuda:0",), [])
