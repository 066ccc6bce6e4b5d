"""A model behind a real HTTP server: what is sent, what is read, and what is refused."""

import json
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from data_prep.program import InputError
from recipe.evaluate.generation import Prompt, Response, with_other_pictures
from recipe.evaluate.serving import ServedModel, check_server, compare
from recipe.program import compose_config


@pytest.fixture
def config(served: Any) -> Any:
    overrides = ["data.dir=D", f"server.base_url={served.url}", "server.attempts=2"]
    return compose_config("evaluate", overrides)


@pytest.fixture
def prompts(tmp_path: Any) -> list[Prompt]:
    """Two questions about two patients, a white picture and a black one of another shape."""
    made = []
    for number, (size, colour) in enumerate((((112, 112), "white"), ((140, 84), "black"))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size, colour).save(path)
        image = {"image": str(path), "min_pixels": 3136, "max_pixels": 12544}
        messages = [{"role": "user", "content": "<image>What is seen?"}]
        truth = json.dumps({"image_size": size})
        made.append(Prompt(number, messages, [image], truth, {"patient": f"p{number}"}))
    return made


def ask(
    config: Any, prompts: list[Prompt], samples: int = 1, model: ServedModel | None = None
) -> list[list[str]]:
    answered = ask_whole(config, prompts, samples, model)
    return [[response.text for response in answered[prompt.index]] for prompt in prompts]


def ask_whole(
    config: Any, prompts: list[Prompt], samples: int = 1, model: ServedModel | None = None
) -> dict[int, list[Response]]:
    """Responses by index; without those that have no reply."""
    answered: dict[int, list[Response]] = {}
    model = model or ServedModel(config, patch_size=14)
    model.answer(
        prompts,
        temperature=0.0,
        samples=samples,
        keep=lambda prompt, responses: answered.update({prompt.index: responses}),
    )
    return answered


def test_pictures_are_sent_in_the_size_of_the_boxes(config: Any, prompts: Any) -> None:
    assert ask(config, prompts, samples=2) == [
        ["(112, 112) (255, 255, 255) 0", "(112, 112) (255, 255, 255) 1"],
        ["(140, 84) (0, 0, 0) 0", "(140, 84) (0, 0, 0) 1"],
    ]


def test_the_question_and_the_settings_are_sent(config: Any, prompts: Any, served: Any) -> None:
    config.server.extra_body = OmegaConf.create({"top_k": 5})
    ask(config, prompts[:1])
    body = served.bodies[0]
    assert body["model"] == "tiny"
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "What is seen?"}
    assert (body["max_tokens"], body["top_k"], body["temperature"]) == (1024, 5, 0.0)


def test_the_server_is_asked_for_the_name_of_its_model(config: Any, served: Any) -> None:
    assert config.server.model is None
    assert ServedModel(config, patch_size=14).name() == "tiny"
    assert served.bodies == []


def test_no_sampling_is_left_to_the_server(config: Any, prompts: Any, served: Any) -> None:
    ask(config, prompts, samples=3)
    neutral = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0}
    for body in served.bodies:
        assert {key: body[key] for key in neutral} == neutral
    # The server adds 0, 1 and 2 for the samples.
    assert sorted(body["seed"] for body in served.bodies) == [0, 3]


def test_a_field_that_the_server_does_not_take_is_named(
    config: Any, prompts: Any, served: Any
) -> None:
    served.unknown = ["top_k", "min_p"]
    with pytest.raises(
        InputError, match=r"status 400 about top_k: .* \+server\.extra_body\.top_k="
    ):
        ask(config, prompts[:1])
    config.server.extra_body = OmegaConf.create({"top_k": None, "min_p": None})
    model = ServedModel(config, patch_size=14)
    assert len(ask(config, prompts, model=model)) == 2
    assert model.description()["sampling"]["top_k"] == "the server's own"
    assert model.description()["sampling"]["top_p"] == 1
    assert "top_k is the server's own" in model.description()["unlike_the_engine"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("content", "finish", "text"),
    [
        ("\n<answer>Yes</answer>", "stop", "<think>seen</think>\n<answer>Yes</answer>"),
        (None, "length", "<think>seen"),
        (None, "stop", "<think>seen"),
    ],
)
def test_a_reasoning_taken_out_by_the_server_is_put_back(
    config: Any,
    prompts: Any,
    served: Any,
    capsys: Any,
    field: str,
    content: str | None,
    finish: str,
    text: str,
) -> None:
    message = {"role": "assistant", "content": content, field: "seen"}
    served.choice = {"message": message, "finish_reason": finish}
    model = ServedModel(config, patch_size=14)
    assert ask(config, prompts, model=model) == [[text], [text]]
    ask(config, prompts, model=model)
    told = capsys.readouterr().out
    assert told.count("the server's reasoning parser took <think> out of the text") == 1
    (line,) = model.description()["unlike_the_engine"]
    assert line.startswith("4 answers: the server's reasoning parser")


def test_an_answer_that_the_parser_took_for_reasoning_is_refused(
    config: Any, prompts: Any, served: Any
) -> None:
    message = {"content": None, "reasoning": "seen <answer>Yes</answer>"}
    served.choice = {"message": message, "finish_reason": "stop"}
    with pytest.raises(InputError, match="took an answer for reasoning: start it without"):
        ask(config, prompts)


class Letters:
    """A tokenizer of capital letters, 0 is special."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(64 + token) for token in tokens if token or not skip_special_tokens)


def test_tokens_are_decoded_where_the_tokenizer_is_here(
    config: Any, prompts: Any, served: Any
) -> None:
    served.choice = {"token_ids": [1, 2, 3, 0], "message": {"content": None, "reasoning": "AB"}}
    model = ServedModel(config, patch_size=14, tokenizer=Letters())
    assert ask(config, prompts, model=model) == [["ABC"], ["ABC"]]
    assert served.bodies[0]["return_token_ids"] is True
    assert model.description()["unlike_the_engine"] == []


def test_answers_that_the_server_ends_too_early_are_told(
    config: Any, prompts: Any, served: Any, capsys: Any
) -> None:
    served.choice, served.usage = {"finish_reason": "length"}, {"completion_tokens": 2048}
    ask(config, prompts, samples=2)
    assert "ended before" not in capsys.readouterr().out
    served.usage = {"completion_tokens": 2047}
    ask(config, prompts, samples=2)
    assert "4 answers: ended before data.max_response_length" in capsys.readouterr().out


def test_a_text_that_the_server_withholds_is_told(
    config: Any, prompts: Any, served: Any, capsys: Any
) -> None:
    served.choice = {"finish_reason": "content_filter", "message": {"content": None}}
    assert ask(config, prompts) == [[""], [""]]
    assert "2 answers: the server withheld the text" in capsys.readouterr().out
    served.choice = {"finish_reason": "stop", "message": {"content": None, "refusal": "No."}}
    assert ask(config, prompts) == [["No."], ["No."]]


@pytest.mark.parametrize(
    ("pixels", "line"),
    [
        ((3136, 11760), r"a picture of 112x112 pixels as 9 tokens, but the boxes .* for 16"),
        ((12544, 50176), r"a picture of 140x84 pixels as 24 tokens, but the boxes .* for 15"),
    ],
)
def test_a_server_that_sees_other_pixels_is_refused(
    config: Any, prompts: Any, served: Any, pixels: Any, line: str
) -> None:
    served.pixels = pixels
    with pytest.raises(InputError, match=line) as caught:
        compare(ServedModel(config, patch_size=14), prompts, None)
    limits = "+server.extra_body.mm_processor_kwargs={min_pixels:3136,max_pixels:12544}"
    assert limits in str(caught.value)
    assert "\n" not in str(caught.value)
    compose_config("evaluate", ["data.dir=D", limits])


def test_a_server_that_sees_the_same_pixels_is_asked_three_tokens(
    config: Any, prompts: Any, served: Any
) -> None:
    model = ServedModel(config, patch_size=14)
    compare(model, prompts, None)
    assert [body["max_tokens"] for body in served.bodies] == [1, 1, 1]
    (line,) = model.description()["unlike_the_engine"]
    assert "chat template and system prompt were not compared" in line


def test_a_server_that_counts_no_tokens_is_told(config: Any, prompts: Any, served: Any) -> None:
    served.usage = None
    model = ServedModel(config, patch_size=14)
    compare(model, prompts, None)
    (line,) = model.description()["unlike_the_engine"]
    assert "pictures and text were not compared" in line


class Words:
    """A processor whose prompts are `<image>` and six more words."""

    @staticmethod
    def tokenizer(text: str) -> dict[str, list[int]]:
        return {"input_ids": [0 for _ in text.split()]}

    @staticmethod
    def apply_chat_template(*_: Any, **__: Any) -> str:
        return "user <begin> <image> <end> What is seen?"


def test_a_server_with_another_chat_template_is_refused(
    config: Any, prompts: Any, served: Any
) -> None:
    served.words = 4
    model = ServedModel(config, patch_size=14)
    compare(model, prompts, Words())
    assert model.description()["unlike_the_engine"] == []
    served.words = 24  # a system prompt
    with pytest.raises(InputError, match=r"42 tokens there and 22 under model\.path's chat"):
        compare(ServedModel(config, patch_size=14), prompts, Words())


def test_controls_keep_the_size_and_change_the_picture(config: Any, prompts: Any) -> None:
    blank = ask(config, with_other_pictures(prompts, "blank", seed=0))
    assert blank == [["(112, 112) (128, 128, 128) 0"], ["(140, 84) (128, 128, 128) 0"]]
    shuffled = ask(config, with_other_pictures(prompts, "shuffled", seed=0))
    assert shuffled == [["(112, 112) (0, 0, 0) 0"], ["(140, 84) (255, 255, 255) 0"]]


def test_a_busy_server_is_asked_again(config: Any, prompts: Any, served: Any) -> None:
    served.faults = [503]
    assert ask(config, prompts[:1]) == [["(112, 112) (255, 255, 255) 0"]]


@pytest.mark.parametrize(
    ("faults", "models", "message"),
    [
        ([500, 500, 500, 500], ["tiny"], "HTTP status 500"),
        ([404], ["tiny"], "HTTP status 404"),
        ([], ["a", "b"], "server.model: .* offers a, b: name one"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(
    config: Any, prompts: Any, served: Any, faults: Any, models: Any, message: str
) -> None:
    served.faults, served.models = faults, models
    with pytest.raises(InputError, match=message):
        ask(config, prompts[:1])


def test_a_few_questions_may_stay_without_an_answer(
    config: Any, prompts: Any, served: Any, capsys: Any
) -> None:
    config.server.max_concurrency = 1
    config.server.max_failed_share = 0.5
    served.faults = [400]
    model = ServedModel(config, patch_size=14)
    assert list(ask_whole(config, prompts, model=model)) == [1]
    (line,) = model.description()["unlike_the_engine"]
    assert line.startswith(
        "1 questions have no answer and count as wrong (index 0: HTTP status 400"
    )
    assert line in capsys.readouterr().out
    served.faults = [400, 400]
    with pytest.raises(InputError, match="HTTP status 400"):
        ask_whole(config, prompts)
    served.faults = [401]  # of no single question
    with pytest.raises(InputError, match="HTTP status 401"):
        ask_whole(config, prompts)


def test_a_response_that_was_cut_off_is_marked(config: Any, prompts: Any, served: Any) -> None:
    served.choice = {"finish_reason": "length"}
    assert [r.is_cut for r in ask_whole(config, prompts[:1], samples=2)[0]] == [True, True]
    served.choice = {"finish_reason": "stop"}
    assert [r.is_cut for r in ask_whole(config, prompts[:1])[0]] == [False]


def test_half_of_a_character_becomes_a_question_mark(
    config: Any, prompts: Any, served: Any
) -> None:
    served.choice = {"message": {"content": "a\ud83d"}}
    assert ask(config, prompts[:1]) == [["a?"]]


def test_a_server_that_gives_one_answer_for_several_is_refused(
    config: Any, prompts: Any, served: Any
) -> None:
    served.knows_n = False
    with pytest.raises(InputError, match=r"1 answers where 2 .* sampling\.samples=1"):
        ask(config, prompts[:1], samples=2)


def test_pictures_go_to_this_machine_only_unless_told(config: Any) -> None:
    config.server.base_url = "https://api.example.com/v1"
    with pytest.raises(InputError, match=r"server\.trusted_hosts"):
        check_server(config.server)
    config.server.trusted_hosts = ["api.example.com"]
    check_server(config.server)
    config.server.api_key_env = "NO_SUCH_VARIABLE"
    with pytest.raises(InputError, match="NO_SUCH_VARIABLE is not set"):
        check_server(config.server)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("server.attempts=0", "server.attempts is 0: input should be greater than"),
        ("server.timeout_s=soon", "server.timeout_s is 'soon': input should be a valid number"),
        ("server.api_key_env=sk-abc", "server.api_key_env is not the name of an environment"),
        ("+server.timeout=3", "unknown setting server.timeout: known are base_url,"),
        ("+server.extra_body.stream=true", "server.extra_body.stream cannot be set here"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, line: str) -> None:
    config = compose_config(
        "evaluate", ["data.dir=D", "server.base_url=http://127.0.0.1/v1", setting]
    )
    with pytest.raises(InputError) as caught:
        check_server(config.server)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


REST = "<answer>No</answer>\n<location></location>"


@pytest.mark.parametrize(
    ("message", "prefix", "expected"),
    [
        ({"content": f"<think>a</think>{REST}"}, "", f"<think>a</think>{REST}"),
        # the template opened the reasoning
        ({"content": f"a\n</think>\n\n{REST}"}, "<think>\n", f"<think>\na\n</think>\n\n{REST}"),
        ({"content": None}, "<think>\n", "<think>\n"),
        # the server takes responses apart
        ({"reasoning": "\na\n", "content": f"\n{REST}"}, "", f"<think>\na\n</think>\n{REST}"),
        ({"reasoning_content": "a", "content": REST}, "", f"<think>a</think>{REST}"),
        ({"reasoning": "a", "content": REST}, "<think>\n", f"<think>a</think>{REST}"),
        ({"reasoning": "a and so", "content": None}, "", "<think>a and so"),  # cut
        ({"reasoning": None, "content": REST}, "", REST),
        ({"reasoning": "", "content": f"<think>a</think>{REST}"}, "", f"<think>a</think>{REST}"),
    ],
)
def test_a_response_is_whole(
    config: Any,
    prompts: Any,
    served: Any,
    message: dict[str, Any],
    prefix: str,
    expected: str,
) -> None:
    served.choice = {"message": message}
    config.server.response_prefix = prefix
    assert ask(config, prompts[:1]) == [[expected]]


def test_a_template_that_opens_the_reasoning_unheard_is_pointed_out(
    config: Any, prompts: Any, served: Any, capsys: Any
) -> None:
    served.choice = {"message": {"content": f"a</think>{REST}"}}
    ask(config, prompts)
    line = capsys.readouterr().out
    assert "2 answers: closed a <think> that they do not open" in line
    assert "server.response_prefix=" in line
    config.server.response_prefix = "<think>"
    ask(config, prompts)
    assert "do not open" not in capsys.readouterr().out


def test_variables_of_the_template_are_sent(config: Any, prompts: Any, served: Any) -> None:
    ask(config, prompts[:1])
    config.data.apply_chat_template_kwargs = OmegaConf.create({"enable_thinking": False})
    ask(config, prompts[:1])
    sent = [body.get("chat_template_kwargs") for body in served.bodies]
    assert sent == [None, {"enable_thinking": False}]
