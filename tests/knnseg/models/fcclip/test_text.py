"""Class names: synonyms, templates, chunks, and what training knew."""

import pytest
import torch

from knnseg.errors import VocabularyError
from knnseg.models.fcclip.text import build_classifier, is_seen, synonyms
from knnseg.stages.text import VILD


def encode(prompts):
    """Something that depends on every letter, of no particular length."""
    codes = [[(ord(letter) * (i + 1)) % 97 for i, letter in enumerate(text.ljust(60))] for text in prompts]
    return torch.tensor(codes, dtype=torch.float32)


def test_synonyms_are_parted_by_commas():
    assert synonyms("automobile, car,motor vehicle") == ["automobile", "car", "motor vehicle"]
    with pytest.raises(VocabularyError, match=r"synonyms.*'car,'"):
        synonyms("car,")


def test_a_class_is_seen_where_one_synonym_is():
    assert is_seen(["truck, lorry", "carriage", "Car"], ["car", "lorry,van"]) == [True, False, False]


def test_each_synonym_is_the_mean_of_its_templates():
    classifier = build_classifier(encode, ["cat", "dog,hound"], ["hound"])
    assert classifier.text.shape == (3, 60) and len(classifier) == 2
    assert classifier.rows.tolist() == [[0, 0], [1, 2]] and classifier.seen.tolist() == [False, True]
    units = torch.nn.functional.normalize(encode([text.replace("{}", "hound") for text in VILD]), dim=1)
    torch.testing.assert_close(classifier.text[2], torch.nn.functional.normalize(units.mean(0), dim=0))


def test_chunks_do_not_change_anything():
    whole, parts = (build_classifier(encode, ["cat", "dog,hound"], [], prompts) for prompts in (128, 5))
    assert torch.equal(whole.text, parts.text)


def test_void_is_a_last_class_of_one_row():
    full = build_classifier(encode, ["cat", "dog,hound"], []).with_void(torch.full((1, 60), 2.0))
    assert full.rows.tolist() == [[0, 0], [1, 2], [3, 3]] and len(full.seen) == 2
    assert full.text[3].norm().item() == pytest.approx(1)


def test_no_class_at_all():
    with pytest.raises(VocabularyError, match="at least one"):
        build_classifier(encode, [], [])


@pytest.mark.parametrize("count", [1, 77, 78])
def test_any_number_of_prompts_is_encoded_alike(small, count):
    """A transformer that takes the batch for the sequence would fail, or, for 77 prompts, be silently wrong."""
    prompts = [f"a photo of {i}" for i in range(count)]
    together = small.backbone.encode_text(prompts)
    torch.testing.assert_close(together[-1:], small.backbone.encode_text(prompts[-1:]), rtol=1e-4, atol=1e-5)
