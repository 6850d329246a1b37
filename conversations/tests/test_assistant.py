"""The agent people talk to is the one the settings name, built once."""

from __future__ import annotations

import pytest
from agents import Agent

from conversations import assistant
from conversations.tests import scripted


def test_the_agent_is_built_once():
    assert assistant.get_agent() is assistant.get_agent()
    assert assistant.get_agent().name == "scripted"


def test_another_setting_is_another_agent(settings):
    before = assistant.get_agent()
    settings.CONVERSATIONS_AGENT = "conversations.tests.turns_agents.with_orm_tool"
    assert assistant.get_agent().name == "counting"
    assert assistant.get_agent() is not before


@pytest.mark.parametrize("path", ["", "nowhere", "conversations.tests.turns_agents.missing"])
def test_an_agent_that_is_not_there_is_an_import_error(settings, path):
    settings.CONVERSATIONS_AGENT = path
    with pytest.raises(ImportError):
        assistant.get_agent()


def test_a_builder_that_failed_is_asked_again(settings):
    settings.CONVERSATIONS_AGENT = "conversations.tests.turns_agents.broken"
    for _ in range(2):
        with pytest.raises(RuntimeError):
            assistant.get_agent()


@pytest.mark.parametrize("tracing", [False, True])
def test_traces_leave_this_process_only_where_asked_for(settings, tracing):
    settings.AGENT_TRACING = tracing
    config = assistant.run_config()
    assert config.tracing_disabled is not tracing
    assert config.trace_include_sensitive_data is tracing
    assert assistant.run_config() is config


@pytest.mark.parametrize(
    ("model", "name"),
    [(None, "default"), ("gpt-9", "gpt-9"), (scripted.ScriptedModel(), "scripted")],
)
def test_a_model_has_a_name_for_the_record(model, name):
    assert assistant.model_name(Agent(name="a", model=model)) == name


def test_a_model_without_a_name_is_called_by_its_class():
    class Nameless(scripted.ScriptedModel):
        model = property()  # type: ignore[assignment]

    assert assistant.model_name(Agent(name="a", model=Nameless())) == "Nameless"
