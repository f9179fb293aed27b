//! The tokenizers of the real model and of the tiny one: every id that Hugging Face gives.

mod common;

use common::*;
use engram::data::tokens::Encode;
use engram::formats::{Checkpoint, TokenizerFile};
use engram::text::{ChatTemplate, Message, Tokenizer};

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    match &checkpoint.tokenizer {
        TokenizerFile::Json(json) => Tokenizer::from_json(checkpoint.name(), json).unwrap(),
        TokenizerFile::Gguf(metadata) => Tokenizer::from_gguf(metadata).unwrap(),
    }
}

fn template(checkpoint: &Checkpoint) -> ChatTemplate {
    let source = checkpoint.chat_template.as_deref().expect("a chat template");
    let (bos, eos) = (checkpoint.bos_token.as_deref(), checkpoint.eos_token.as_deref());
    ChatTemplate::new(checkpoint.name(), source, bos, eos).unwrap()
}

#[test]
fn ids_of_the_real_vocabulary_are_hugging_faces() {
    let tokenizer = tokenizer(&open_gguf(&real_model_path()));
    let golden = golden_json("tokenizer_ids.json");
    let cases = golden["cases"].as_array().expect("cases");
    assert!(cases.len() > 50);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn prompts_of_the_real_model_are_hugging_faces() {
    let checkpoint = open_gguf(&real_model_path());
    let (tokenizer, template) = (tokenizer(&checkpoint), template(&checkpoint));
    let golden = golden_json("real_greedy.json");
    let mut kinds = [0, 0];
    for case in golden["prompts"].as_array().expect("prompts") {
        let prompt = case["prompt"].as_str().expect("prompt");
        let is_chat = case["kind"] == "chat";
        kinds[usize::from(is_chat)] += 1;
        let found = if is_chat {
            let text = template.render(&[Message::new("user", prompt)], true).unwrap();
            tokenizer.encode(&text, false).unwrap()
        } else {
            tokenizer.encode(prompt, true).unwrap()
        };
        assert_eq!(found, ids(&case["prompt_ids"]), "{prompt:?}");
        let decoded = tokenizer.decode(&ids(&case["new_ids"]), false).unwrap();
        assert_eq!(decoded, case["text"], "{prompt:?}");
    }
    assert!(kinds.iter().all(|&count| count > 0));
}

#[test]
fn the_tiny_tokenizer_is_the_same_from_either_format() {
    let golden = golden_json("tiny_tokenizer.json");
    let checkpoints = [open_folder("tiny"), open_gguf(&golden_path("tiny_q8_0.gguf"))];
    for checkpoint in &checkpoints {
        let (tokenizer, template) = (tokenizer(checkpoint), template(checkpoint));
        for case in golden["texts"].as_array().expect("texts") {
            let text = case["text"].as_str().expect("text");
            let ids = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"], "{text:?}");
        }
        let chat = &golden["chat"];
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let text = template.render(&messages, false).unwrap();
        assert_eq!(text, chat["text"]);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(&chat["ids"]));
    }
    assert_eq!(checkpoints[0].chat_template, checkpoints[1].chat_template);

    let engine = engine(&context(), &checkpoints[0]);
    let messages: Vec<Message> =
        serde_json::from_value(golden["chat"]["messages"].clone()).unwrap();
    let prompt = engine.encode_chat(&messages[..1]).unwrap();
    assert_eq!(prompt, ids(&golden["chat"]["prompt_ids"]));
    assert_eq!(engine.text("the cat sat on the mat").unwrap(), ids(&golden["texts"][0]["ids"]));
}
