"""Cards as files: what is written reads back as the same card."""

import msgspec
import pytest

from sim_backend.cards import engine_card, gpu_card, llm_card, server_card
from sim_backend.cards.reading import FitNote, Sourced, card_names
from sim_backend.cards.writing import card_text, write_card

LOADERS = {
    gpu_card.FOLDER: gpu_card.load_gpu,
    engine_card.FOLDER: engine_card.load_engine,
    server_card.FOLDER: server_card.load_server,
    llm_card.FOLDER: llm_card.load_llm,
}
EVERY = [(folder, name) for folder in LOADERS for name in card_names(folder)]


def test_there_are_cards_of_every_kind():
    assert all(card_names(folder) for folder in LOADERS)


@pytest.mark.parametrize(("folder", "name"), EVERY, ids=lambda value: value if isinstance(value, str) else "")
def test_a_card_that_is_written_reads_back_the_same(folder, name, tmp_path):
    card = LOADERS[folder](name)
    path = tmp_path / "card.toml"
    write_card(card, path)
    assert LOADERS[folder](str(path)) == card
    assert card_text(card) == path.read_text()


def test_quotes_and_notes_survive(tmp_path):
    note = FitNote(recordings=["a", 'b "c" \\'], recorded="2026-11", checked_points=3, median_error=0.012)
    card = msgspec.structs.replace(gpu_card.load_gpu("h100-sxm"), fit=note)
    card = msgspec.structs.replace(card, source={**card.source, "tdp_w": 'said "so"'})
    path = tmp_path / "card.toml"
    write_card(card, path)
    assert gpu_card.load_gpu(str(path)) == card


def test_what_no_card_holds_is_not_written_as_text():
    class Odd(Sourced, frozen=True, kw_only=True):
        pair: tuple[int, int]

    with pytest.raises(TypeError, match="cannot stand in a card"):
        card_text(Odd(name="odd", source={}, pair=(1, 2)))
