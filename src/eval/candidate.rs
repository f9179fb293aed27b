//! A loaded model, with or without an adapter, as a [`Candidate`].

use std::ops::{ControlFlow, Range};

use super::harness::{Candidate, Completion, EvalPrompt, LossSum, LossText, PromptForm};
use crate::data::tokens::Encode as _;
use crate::generate::{Decoder, Engine, FinishReason, GenerateConfig, Likelihood, LoadedAdapter};
use crate::text::Message;
use crate::{Error, Result};

/// Tokens of a text seen at once. A longer text is read in windows that overlap by half, so that
/// every token beyond the first window has at least half of this before it.
const WINDOW: usize = 512;
/// Recordings for losses have room for a multiple of that many tokens.
const CAPACITY_STEP: usize = 128;

/// An [`Engine`] that is evaluated.
pub struct EngineCandidate<'a> {
    name: String,
    engine: &'a Engine,
    adapter: Option<LoadedAdapter>,
    clock: &'a dyn Fn() -> f64,
    // Both are recorded at their first use and replayed from then on.
    decoder: Option<Decoder>,
    likelihood: Option<Likelihood>,
}

impl<'a> EngineCandidate<'a> {
    /// A candidate that the report calls `name`; `clock` gives seconds from any fixed start.
    pub fn new(
        name: impl Into<String>,
        engine: &'a Engine,
        adapter: Option<LoadedAdapter>,
        clock: &'a dyn Fn() -> f64,
    ) -> Self {
        let name = name.into();
        Self { name, engine, adapter, clock, decoder: None, likelihood: None }
    }

    /// The loss of every token of `text` but the first, for files of plain text: `on_window` gets
    /// the tokens counted so far and all that will be, and may end the reading with
    /// [`Error::Cancelled`].
    ///
    /// A text longer than 512 tokens (or the model's context) is read in windows that overlap by
    /// half; each token counts once.
    pub async fn text_loss(
        &mut self,
        text: &str,
        on_window: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<LossSum> {
        let ids = self.engine.text(text)?;
        let limit = self.engine.config().max_position_embeddings;
        let mut sum = LossSum::default();
        for (window, from) in windows(ids.len(), WINDOW.min(limit)) {
            let done = window.end;
            let part = self.token_loss(&ids[window], from).await?;
            sum.sum_nll += part.sum_nll;
            sum.tokens += part.tokens;
            if on_window(done, ids.len()).is_break() {
                return Err(Error::Cancelled);
            }
        }
        Ok(sum)
    }

    /// The loss of `ids[from..]` given what comes before each.
    async fn token_loss(&mut self, ids: &[u32], from: usize) -> Result<LossSum> {
        let (needed, limit) =
            (ids.len().saturating_sub(1), self.engine.config().max_position_embeddings);
        if needed > limit {
            return Err(Error::ContextOverflow { needed, limit });
        }
        let fits = |likelihood: &Likelihood| likelihood.capacity() >= needed;
        let likelihood = match self.likelihood.take().filter(fits) {
            Some(likelihood) => likelihood,
            None => {
                let capacity = needed.max(1).next_multiple_of(CAPACITY_STEP).min(limit);
                Likelihood::new(self.engine.model(), self.adapter.as_ref(), capacity)?
            }
        };
        let nll = self.likelihood.insert(likelihood).nll(ids, from).await?;
        Ok(LossSum { sum_nll: nll.iter().sum(), tokens: nll.len() as u64 })
    }

    fn prompt_ids(&self, prompt: &EvalPrompt<'_>) -> Result<Vec<u32>> {
        match prompt.form {
            PromptForm::Raw => self.engine.text(prompt.text),
            PromptForm::Chat => self.engine.encode_chat(&conversation(prompt)),
        }
    }

    /// The tokens of a prompt and its answer, and where the answer begins: at the first token that
    /// is not the prompt's own, since a token may span both.
    fn answered_ids(&self, prompt: &EvalPrompt<'_>, answer: &str) -> Result<(Vec<u32>, usize)> {
        let asked = self.prompt_ids(prompt)?;
        let mut ids = match prompt.form {
            PromptForm::Raw => self.engine.text(&format!("{}{answer}", prompt.text))?,
            PromptForm::Chat => {
                let mut messages = conversation(prompt);
                messages.push(Message::new("assistant", answer));
                self.engine.chat(&messages, None, false)?
            }
        };
        let from = ids.iter().zip(&asked).take_while(|(a, b)| a == b).count().max(1);
        if prompt.form == PromptForm::Chat {
            // What a template writes after the end token, no answer contains.
            let ends = self.engine.end_tokens();
            let end = ids.iter().skip(from).rposition(|id| ends.contains(id));
            ids.truncate(end.map_or(ids.len(), |end| from + end + 1));
        }
        Ok((ids, from))
    }
}

impl Candidate for EngineCandidate<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn complete(
        &mut self,
        prompt: &EvalPrompt<'_>,
        max_new_tokens: usize,
    ) -> Result<Completion> {
        let started = (self.clock)();
        let ids = self.prompt_ids(prompt)?;
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(self.engine.decoder(self.adapter.as_ref())?),
        };
        // What the last prompt left in the cache would make this one's time depend on it.
        decoder.truncate(0);
        let config = GenerateConfig { max_new_tokens, ..GenerateConfig::default() };
        let mut ignore = |_: &str| ControlFlow::Continue(());
        let answer = self.engine.generate(decoder, &ids, &config, self.clock, &mut ignore).await?;
        Ok(Completion {
            tokens: answer.tokens.len() + usize::from(answer.finish_reason == FinishReason::Stop),
            text: answer.text,
            seconds: (self.clock)() - started,
        })
    }

    async fn loss(&mut self, text: &LossText<'_>) -> Result<LossSum> {
        match text {
            LossText::Whole(text) => {
                self.text_loss(text, &mut |_, _| ControlFlow::Continue(())).await
            }
            LossText::Answer { prompt, answer } => {
                let (ids, from) = self.answered_ids(prompt, answer)?;
                self.token_loss(&ids, from).await
            }
        }
    }
}

/// The chat up to the user's question.
fn conversation(prompt: &EvalPrompt<'_>) -> Vec<Message> {
    let mut messages = prompt.history.to_vec();
    messages.push(Message::new("user", prompt.text));
    messages
}

/// Windows of at most `window` tokens over a text of `len`, each with the first of its tokens that
/// counts; together they count every token but the text's first, once.
fn windows(len: usize, window: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let window = window.max(2);
    let mut counted = 1;
    std::iter::from_fn(move || {
        if counted >= len {
            return None;
        }
        let start = if counted == 1 { 0 } else { counted - window / 2 };
        let end = (start + window).min(len);
        let from = counted - start;
        counted = end;
        Some((start..end, from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Bytes, Checkpoint, SafetensorsFolder};
    use crate::gpu::{Context, ContextOptions};
    use crate::kernels::kv::KvType;
    use crate::testing::{async_test, test};

    macro_rules! golden {
        ($file:literal) => {
            include_bytes!(concat!("../../data/goldens/tiny/", $file))
        };
    }

    async fn tiny() -> Engine {
        let folder = SafetensorsFolder {
            name: "tiny".into(),
            weights: vec![(
                "model.safetensors".into(),
                Box::new(Bytes::new("model.safetensors", golden!("model.safetensors").as_slice())),
            )],
            index_json: None,
            config_json: golden!("config.json").to_vec(),
            generation_config_json: None,
            tokenizer_json: golden!("tokenizer.json").to_vec(),
            tokenizer_config_json: Some(golden!("tokenizer_config.json").to_vec()),
            chat_template_jinja: None,
        };
        let checkpoint = Checkpoint::from_safetensors(folder).await.unwrap();
        let context = Context::new(&ContextOptions::default()).await.unwrap();
        Engine::load(&context, &checkpoint, None, &mut |_, _| Ok(())).await.unwrap()
    }

    fn no_clock() -> f64 {
        0.0
    }

    fn prompt(text: &str, form: PromptForm) -> EvalPrompt<'_> {
        EvalPrompt { history: &[], text, form }
    }

    /// The same by another way: the decoder, a token at a time, and a plain log-softmax.
    async fn decoded_nll(engine: &Engine, ids: &[u32], from: usize) -> Vec<f64> {
        let mut decoder = Decoder::with_cache(engine.model(), None, KvType::F32).unwrap();
        let mut nll = Vec::new();
        for at in from..ids.len() {
            decoder.prefill(&ids[..at]).unwrap();
            let logits = decoder.logits().await.unwrap();
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            nll.push(-(f64::from(logits[ids[at] as usize]).exp() / sum).ln());
        }
        nll
    }

    #[track_caller]
    fn assert_loss(loss: LossSum, expected: &[f64]) {
        assert_eq!(loss.tokens, expected.len() as u64);
        let sum: f64 = expected.iter().sum();
        assert!((loss.sum_nll - sum).abs() < 1e-4 * sum, "{} is not {sum}", loss.sum_nll);
    }

    #[async_test]
    async fn answers_are_those_of_the_engine_whatever_was_asked_before() {
        let engine = tiny().await;
        let seconds = std::cell::Cell::new(0.0);
        let clock = || seconds.replace(seconds.get() + 0.5);
        let mut candidate = EngineCandidate::new("base", &engine, None, &clock);
        for (text, form) in
            [("Hello", PromptForm::Raw), ("Hello there", PromptForm::Raw), ("Hi", PromptForm::Chat)]
        {
            let ids = match form {
                PromptForm::Raw => engine.tokenizer().encode(text, true).unwrap(),
                PromptForm::Chat => engine.encode_chat(&[Message::new("user", text)]).unwrap(),
            };
            let config = GenerateConfig { max_new_tokens: 12, ..Default::default() };
            let mut decoder = engine.decoder(None).unwrap();
            let mut ignore = |_: &str| ControlFlow::Continue(());
            let expected =
                engine.generate(&mut decoder, &ids, &config, &no_clock, &mut ignore).await.unwrap();
            for _ in 0..2 {
                let actual = candidate.complete(&prompt(text, form), 12).await.unwrap();
                assert_eq!(actual.text, expected.text);
                let ended = usize::from(expected.finish_reason == FinishReason::Stop);
                assert_eq!(actual.tokens, expected.tokens.len() + ended);
                assert!(actual.seconds > 0.0);
            }
        }
    }

    #[async_test]
    async fn the_loss_of_an_answer_is_that_of_its_tokens() {
        let engine = tiny().await;
        let mut candidate = EngineCandidate::new("base", &engine, None, &no_clock);
        let ids = engine.tokenizer().encode("Two and two is four, they say.", true).unwrap();
        let from = engine.tokenizer().encode("Two and two", true).unwrap().len();
        let asked = prompt("Two and two", PromptForm::Raw);
        let text = LossText::Answer { prompt: asked, answer: " is four, they say." };
        let expected = decoded_nll(&engine, &ids, from).await;
        assert_loss(candidate.loss(&text).await.unwrap(), &expected);
        let nothing = LossText::Answer { prompt: asked, answer: "" };
        assert_eq!(candidate.loss(&nothing).await.unwrap(), LossSum::default());
    }

    #[async_test]
    async fn the_loss_in_a_chat_counts_the_answer_and_its_end_alone() {
        let engine = tiny().await;
        let mut candidate = EngineCandidate::new("base", &engine, None, &no_clock);
        let history = [Message::new("system", "Be brief.")];
        let asked = EvalPrompt { history: &history, text: "2+2", form: PromptForm::Chat };
        let loss = candidate.loss(&LossText::Answer { prompt: asked, answer: "4" }).await.unwrap();
        let question = [history[0].clone(), Message::new("user", "2+2")];
        let mut ids = engine.encode_chat(&question).unwrap();
        let from = ids.len();
        ids.extend(engine.tokenizer().encode("4", false).unwrap());
        // The end of the turn, but not the line feed that the template writes after it.
        ids.push(engine.tokenizer().token_id("<|im_end|>").unwrap());
        assert_eq!(ids.len(), from + 2);
        assert_loss(loss, &decoded_nll(&engine, &ids, from).await);
    }

    #[async_test]
    async fn a_text_longer_than_the_head_does_at_once_and_than_the_context() {
        let engine = tiny().await;
        let mut candidate = EngineCandidate::new("base", &engine, None, &no_clock);
        let text = "A line of no meaning, but of some length. ".repeat(3);
        let ids = engine.tokenizer().encode(&text, true).unwrap();
        assert!(ids.len() > 70);
        let expected = decoded_nll(&engine, &ids, 1).await;
        assert_loss(candidate.loss(&LossText::Whole(&text)).await.unwrap(), &expected);

        let long = text.repeat(5);
        let count = engine.tokenizer().encode(&long, true).unwrap().len();
        assert!(count > engine.config().max_position_embeddings);
        let mut seen = Vec::new();
        let mut note = |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        };
        let loss = candidate.text_loss(&long, &mut note).await.unwrap();
        assert_eq!(loss.tokens as usize, count - 1);
        assert_eq!(seen.last(), Some(&(count, count)));
        let stopped = candidate.text_loss(&long, &mut |_, _| ControlFlow::Break(())).await;
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }

    #[test]
    fn windows_count_every_token_once_with_half_a_window_before_it() {
        for (len, window) in [(0, 8), (1, 8), (2, 8), (8, 8), (9, 8), (50, 8), (51, 7), (5, 1)] {
            let mut counted = Vec::new();
            for (range, from) in windows(len, window) {
                assert!(range.len() <= window.max(2) && from >= 1);
                assert!(range.start == 0 || from >= window / 2, "{range:?} {from}");
                counted.extend(range.start + from..range.end);
            }
            assert_eq!(counted, (1..len).collect::<Vec<_>>(), "{len} {window}");
        }
    }

    #[async_test]
    async fn an_answer_beyond_the_context_is_refused() {
        let engine = tiny().await;
        let mut candidate = EngineCandidate::new("base", &engine, None, &no_clock);
        let answer = "word ".repeat(300);
        let text = LossText::Answer { prompt: prompt("A", PromptForm::Raw), answer: &answer };
        let error = candidate.loss(&text).await.unwrap_err();
        assert!(matches!(error, Error::ContextOverflow { limit: 256, .. }), "{error}");
    }
}
