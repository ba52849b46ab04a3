"""One warning for each part that falls back; an error under MTP_STRICT=1."""

import pytest

from mtp import fallback


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(fallback, '_fallen', {})


def test_each_part_warns_once(monkeypatch, caplog):
    monkeypatch.delenv('MTP_STRICT', raising=False)
    for _ in range(2):
        fallback.fall_back('Block.forward', 'it runs uncompiled', ValueError('\n no room\nmore'))
    fallback.fall_back('dcnv3', 'its torch form runs', 'Triton is not installed')
    assert [record.getMessage().split('. If')[0] for record in caplog.records] == [
        'Block.forward failed, from now on it runs uncompiled, more slowly: ValueError: no room',
        'dcnv3 failed, from now on its torch form runs, more slowly: Triton is not installed',
    ]
    assert 'report it' in caplog.text
    assert fallback.fallen() == {
        'Block.forward': 'ValueError: no room',
        'dcnv3': 'Triton is not installed',
    }


def test_strict_mode_refuses(monkeypatch):
    monkeypatch.setenv('MTP_STRICT', '1')
    cause = ValueError('no room')
    with pytest.raises(fallback.FallbackError, match='Block.forward: ValueError: no room') as info:
        fallback.fall_back('Block.forward', 'it runs uncompiled', cause)
    assert info.value.__cause__ is cause and not fallback.fallen()


def test_a_reason_fits_into_a_line():
    assert fallback.reason_in_a_line(KeyError()) == 'KeyError'
    assert len(fallback.reason_in_a_line(ValueError('x' * 999))) == 300
