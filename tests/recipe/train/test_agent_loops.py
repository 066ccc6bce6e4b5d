"""Rollouts by group: what is stored is what verl's own loop stores, and only once for a group."""

import asyncio
import copy
from typing import Any

import pytest
import torch
from PIL import Image

from phantom.tiny.model import IMAGE, build_model, build_processor
from recipe.verl_fixes.group_features import STORED_WITH, read_whole, stored_with

QUESTION = "Is there an opacity in the left lung?"
ANSWERS = ("Yes", "No, there is none.", "the left lung [1, 2, 3, 4]")
ROW = {
    "uid": "prompt",
    "global_steps": 3,
    "index": 7,
    "extra_info": {"index": 7},
    "data_source": "thinkvg",
    "reward_model": {"ground_truth": "{}"},
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model's processor as verl loads it, with the model's position ids."""
    from verl.utils.tokenizer import hf_processor

    folder = tmp_path_factory.mktemp("model")
    processor = build_processor([QUESTION, *ANSWERS])
    build_model(processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return hf_processor(str(folder))


@pytest.fixture
def worker(processor: Any) -> Any:
    """A worker without Ray, engine and reward."""
    from recipe.train.agent_loops import AgentLoopWorkerByGroup

    made = object.__new__(AgentLoopWorkerByGroup)
    made.processor, made.tokenizer = processor, processor.tokenizer
    made.mm_processor_kwargs = {}
    made.distillation_enabled = False
    made.reward_loop_worker_handles = None
    made._parts = {}
    made._vision = torch.tensor([processor.image_token_id])
    return made


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every put into TransferQueue, which is not running."""
    import transfer_queue as tq

    puts: list[dict[str, Any]] = []

    async def put(**arguments: Any) -> None:
        puts.append(arguments)

    monkeypatch.setattr(tq, "async_kv_batch_put", put)
    return puts


def outputs(processor: Any, answers: tuple[str, ...], side: int) -> list[Any]:
    """What verl's loop returns for each answer to a question with a square picture."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    picture = Image.effect_noise((side, side), 64).convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    prompt = processor(text=[text], images=[picture])["input_ids"][0]
    made = []
    for answer in answers:
        tokens = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        made.append(
            AgentLoopOutput(
                prompt_ids=list(prompt),
                response_ids=tokens,
                response_mask=[1] * len(tokens),
                multi_modal_data={"images": [picture]},
                num_turns=2,
                metrics=AgentLoopMetrics(),
                extra_fields={"min_global_steps": 3, "max_global_steps": 3, "turn_scores": []},
            )
        )
    return made


def rows(puts: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Fields and tags of each rollout that was stored, by its key."""
    found = {}
    for put in puts:
        fields = put["fields"]
        for number, (key, tag) in enumerate(zip(put["keys"], put["tags"], strict=True)):
            row = {name: fields[name][number] for name in fields.keys()}  # noqa: SIM118
            found[key] = ({name: getattr(v, "data", v) for name, v in row.items()}, tag)
    return found


def store_as_verl(worker: Any, made: list[Any]) -> None:
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    kind = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__
    verls = object.__new__(kind)
    verls.__dict__.update(worker.__dict__)
    for session, output in enumerate(made):
        asyncio.run(
            verls._agent_loop_postprocess(output, False, session_id=session, **copy.deepcopy(ROW))
        )


@pytest.mark.parametrize("side", [56, 112])
def test_rollouts_of_a_group_are_stored_as_verl_stores_them(
    worker: Any, processor: Any, stored: list[dict[str, Any]], side: int
) -> None:
    made = outputs(processor, ANSWERS, side)
    store_as_verl(worker, copy.deepcopy(made))
    expected = rows(stored)
    stored.clear()
    asyncio.run(worker._store_group(made, copy.deepcopy(ROW), "train"))
    assert len(stored) == 1
    actual = rows(stored)
    assert actual.keys() == expected.keys()
    for key, (fields, tag) in actual.items():
        wanted, wanted_tag = expected[key]
        assert tag == wanted_tag
        assert fields.keys() == wanted.keys()
        features, wanted_features = (row.pop("multi_modal_inputs") for row in (fields, wanted))
        if key == "prompt_0_0":
            assert features.keys() == wanted_features.keys()
            assert all(features[name].equal(wanted_features[name]) for name in features)
        else:
            assert features == stored_with("prompt_0_0")
        for name, value in fields.items():
            same = value.equal(wanted[name]) if torch.is_tensor(value) else value == wanted[name]
            assert same, (key, name)


def test_an_answer_with_a_token_of_a_picture_stands_alone(
    worker: Any, processor: Any, stored: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    completed: list[Any] = []

    def complete(self: Any, output: Any, field: dict[str, Any]) -> None:
        completed.append(output)
        field.update(position_ids=torch.zeros(4, 1, dtype=torch.int64), multi_modal_inputs={})

    monkeypatch.setattr(type(worker), "_complete_alone", complete)
    made = outputs(processor, (IMAGE, *ANSWERS[:2]), 56)
    made[0].response_ids, made[0].response_mask = [processor.image_token_id], [1]
    asyncio.run(worker._store_group(made, copy.deepcopy(ROW), "train"))
    assert completed == made[:1]
    features = [row["multi_modal_inputs"] for row, _ in rows(stored).values()]
    assert features[0] == {}
    assert "pixel_values" in features[1]
    assert features[2] == stored_with("prompt_1_0")


def test_a_batch_is_read_with_everybodys_features(monkeypatch: pytest.MonkeyPatch) -> None:
    import transfer_queue as tq
    from transfer_queue import KVBatchMeta
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    features = {"a_0_0": {"pixel_values": torch.ones(2)}, "b_1_0": {"pixel_values": torch.zeros(2)}}
    asked: list[tuple[list[str], str]] = []

    async def read(meta: Any) -> Any:
        entries = [stored_with("b_1_0"), features["b_1_0"], stored_with("a_0_0"), {}]
        return list_of_dict_to_tensordict([{"multi_modal_inputs": entry} for entry in entries])

    async def get(keys: list[str], partition: str, select_fields: list[str]) -> Any:
        asked.append((keys, partition))
        return list_of_dict_to_tensordict(
            [dict.fromkeys(select_fields, features[key]) for key in keys]
        )

    monkeypatch.setattr(tq, "async_kv_batch_get", get)
    meta = KVBatchMeta(partition_id="train", keys=list("abcd"), tags=[{}] * 4)
    data = asyncio.run(read_whole(read)(meta))
    assert asked == [(["a_0_0", "b_1_0"], "train")]
    whole = [entry.get("pixel_values") for entry in list(data["multi_modal_inputs"])]
    assert STORED_WITH not in str(list(data["multi_modal_inputs"]))
    assert [w.tolist() if w is not None else None for w in whole] == [[0, 0], [0, 0], [1, 1], None]


def test_a_group_is_one_request_and_each_rollout_gets_its_answer(processor: Any) -> None:
    from recipe.train.agent_loops import GroupLoop

    loop = object.__new__(GroupLoop)
    asked: list[dict[str, Any]] = []

    class Server:
        """Answers a group; `generate_group.remote` is what Ray offers."""

        @property
        def generate_group(self) -> Any:
            class Method:
                @staticmethod
                async def remote(count: int, **request: Any) -> list[Any]:
                    from verl.workers.rollout.replica import TokenOutput

                    asked.append(request)
                    return [
                        TokenOutput(token_ids=[number], extra_fields={"global_steps": 5})
                        for number in range(count)
                    ]

            return Method

    class Client:
        async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
            return "a", Server()

        def _release_server(self, server_id: str, request_id: str | None = None) -> None:
            asked.append({"released": server_id})

    loop._client, loop._count, loop._answers = Client(), 3, None

    async def all_rollouts() -> list[Any]:
        request = {
            "prompt_ids": [1, 2],
            "sampling_params": {"temperature": 1.0},
            "image_data": ["p"],
        }
        return [await loop.generate("id", **request, video_data=None) for _ in range(3)]

    answers = asyncio.run(all_rollouts())
    assert [answer.token_ids for answer in answers] == [[0], [1], [2]]
    assert all(answer.extra_fields["min_global_steps"] == 5 for answer in answers)
    assert len(asked) == 2
    assert asked[0].keys() == {"prompt_ids", "sampling_params", "image_data", "request_id"}
