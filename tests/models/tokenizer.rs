//! The tiny model's tokenizer: every id that Hugging Face gives, from either format.

use crate::common::*;
use engram::data::tokens::Encode;
use engram::formats::{Checkpoint, TokenizerFile};
use engram::text::{ChatTemplate, Message, Tokenizer};

pub fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    match &checkpoint.tokenizer {
        TokenizerFile::Json(json) => Tokenizer::from_json(checkpoint.name(), json).unwrap(),
        TokenizerFile::Gguf(metadata) => Tokenizer::from_gguf(metadata).unwrap(),
    }
}

pub fn template(checkpoint: &Checkpoint) -> ChatTemplate {
    let source = checkpoint.chat_template.as_deref().expect("a chat template");
    let (bos, eos) = (checkpoint.bos_token.as_deref(), checkpoint.eos_token.as_deref());
    ChatTemplate::new(checkpoint.name(), source, bos, eos).unwrap()
}

#[async_test]
async fn the_tiny_tokenizer_is_the_same_from_either_format() {
    let golden = golden_json("tiny_tokenizer.json");
    let checkpoints = [open_folder("tiny").await, open_gguf("tiny_q8_0.gguf").await];
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

    let engine = engine(&context().await, &checkpoints[0]).await;
    let messages: Vec<Message> =
        serde_json::from_value(golden["chat"]["messages"].clone()).unwrap();
    let prompt = engine.encode_chat(&messages[..1]).unwrap();
    assert_eq!(prompt, ids(&golden["chat"]["prompt_ids"]));
    assert_eq!(engine.text("the cat sat on the mat").unwrap(), ids(&golden["texts"][0]["ids"]));
}
