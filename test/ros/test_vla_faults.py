"""The book of faults: edges, order, endings."""
from specprune_ros.ros.faults import FaultBook, FaultCode


def book():
    begun, ended = [], []
    return FaultBook(begun.append, ended.append), begun, ended


def test_a_fault_that_comes_with_every_message_begins_once():
    faults, begun, ended = book()
    assert faults.raise_fault(FaultCode.IMAGE, "camera/primary", "step is 1")
    assert not faults.raise_fault(FaultCode.IMAGE, "camera/primary", "step is 2")
    assert ([fault.text for fault in begun], ended, faults.count) == (["step is 1"], [], 1)
    assert [str(fault) for fault in faults.present()] == ["camera/primary: step is 2"]
    faults.clear(FaultCode.IMAGE, "camera/primary")
    faults.clear(FaultCode.IMAGE, "camera/primary")
    assert len(ended) == 1
    assert faults.raise_fault(FaultCode.IMAGE, "camera/primary", "again")
    assert faults.count == 2


def test_one_input_that_is_good_again_does_not_end_the_fault_of_another():
    faults, _, _ = book()
    faults.raise_fault(FaultCode.INFERENCE, "policy", "out of memory")
    faults.raise_fault(FaultCode.IMAGE, "camera/wrist", "no pixels")
    faults.raise_fault(FaultCode.IMAGE, "camera/primary", "no pixels")
    faults.clear(FaultCode.IMAGE, "camera/primary")
    assert [fault.source for fault in faults.present()] == ["camera/wrist", "policy"]
    faults.clear(FaultCode.IMAGE)
    assert [fault.code for fault in faults.present()] == [FaultCode.INFERENCE]
    faults.restart_count()
    assert faults.count == 1
    faults.clear()
    assert faults.present() == []


def test_codes_are_those_of_the_message():
    from specprune_ros.msg import VlaStatus

    assert {code.name: code.value for code in FaultCode} == {
        code.name: getattr(VlaStatus, code.name) for code in FaultCode}
