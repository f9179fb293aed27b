//! `engram generate` and `engram chat`, run as a user runs them, on the tiny model.

mod tiny;

use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};

use tiny::{engram, error, golden, stdout};

#[track_caller]
fn generate(arguments: &[&str]) -> String {
    let text = stdout(engram(&[&["--quiet", "generate"], arguments].concat()).output().unwrap());
    // The line feed after the answer is ours.
    text.strip_suffix('\n').unwrap().to_owned()
}

/// Runs with `input` as standard input.
fn feed(arguments: &[&str], input: &str) -> Output {
    let mut command = engram(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn the_length_is_what_was_asked_for() {
    let long = generate(&["hi", "--max-new-tokens", "30"]);
    let short = generate(&["hi", "--max-new-tokens", "5"]);
    assert!(long.starts_with(&short) && short.len() < long.len(), "{long:?} {short:?}");
    assert_eq!(generate(&["hi", "--max-new-tokens", "0"]), "");
    let notes = engram(&["generate", "hi", "--max-new-tokens", "0"]).output().unwrap().stderr;
    let notes = String::from_utf8(notes).unwrap();
    assert!(notes.contains("prompt 19 tokens, no new ones"), "{notes}");
    // By default what the context of 256 has room for.
    assert!(generate(&["hi"]).starts_with(&long));
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let whole = generate(&["hi", "--max-new-tokens", "30"]);
    // A stop text that begins and ends within tokens.
    let (at, stop) = (whole.len() / 2, &whole[whole.len() / 2..][..4]);
    let expected = &whole[..whole.find(stop).unwrap()];
    assert!(expected.len() <= at);
    assert_eq!(generate(&["hi", "--max-new-tokens", "30", "--stop", stop]), expected);
    let two = ["hi", "--max-new-tokens", "30", "--stop", "no such text", "--stop", stop];
    assert_eq!(generate(&two), expected);
}

#[test]
fn the_prompt_can_be_raw_or_come_from_standard_input() {
    let ask = ["hi", "--max-new-tokens", "12"];
    let chat = generate(&ask);
    assert_ne!(generate(&[&ask[..], &["--raw"]].concat()), chat);
    // The chat's text is the raw prompt's, written out.
    let template = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(generate(&["--raw", template, "--max-new-tokens", "12"]), chat);
    assert_ne!(generate(&[&ask[..], &["--system", "be nice"]].concat()), chat);
    for prompt in [&["-"][..], &[]] {
        let arguments = [&["--quiet", "generate", "--max-new-tokens", "12"], prompt].concat();
        assert_eq!(stdout(feed(&arguments, "hi\n")), format!("{chat}\n"));
    }
}

#[test]
fn the_seed_decides_what_is_sampled() {
    let sampled =
        |seed| generate(&["hi", "--max-new-tokens", "24", "--temperature", "2", "--seed", seed]);
    let first = sampled("1");
    assert_eq!(sampled("1"), first);
    assert_ne!(sampled("2"), first);
    let greedy = generate(&["hi", "--max-new-tokens", "24"]);
    assert_ne!(first, greedy);
    let top = ["hi", "--max-new-tokens", "24", "--temperature", "2", "--top-k", "1", "--seed", "3"];
    assert_eq!(generate(&top), greedy);
}

#[test]
fn a_character_is_never_split() {
    // Every token but `a` becomes the end of one two-byte character and the beginning of another,
    // so that each character of the answer takes two tokens. The tokenizer writes the byte b as
    // the character U+00b, for the bytes used here.
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("tiny")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap().clone();
    let ends = ('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{bf}');
    let pieces =
        ends.flat_map(|end| ('\u{c3}'..='\u{c8}').map(move |start| format!("{end}{start}")));
    let mut pieces = pieces.collect::<Vec<_>>().into_iter();
    let renamed = vocab.into_iter().map(|(token, id)| match token.as_str() {
        "a" => (token, id),
        _ if token.starts_with("<|") => (token, id),
        _ => (pieces.next().unwrap(), id),
    });
    tokenizer["model"]["vocab"] = renamed.collect::<serde_json::Map<_, _>>().into();
    tokenizer["model"]["merges"] = serde_json::json!([]);
    std::fs::write(&path, tokenizer.to_string()).unwrap();

    let model = folder.path().to_str().unwrap();
    let ask = ["-q", "--model", model, "generate", "--raw", "a", "--max-new-tokens", "40"];
    // The most likely token ends the answer at once.
    let arguments = [&ask[..], &["--temperature", "1", "--seed", "3"]].concat();
    let mut child = engram(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, mut text, mut piece) = (child.stdout.take().unwrap(), String::new(), [0; 4096]);
    loop {
        let read = out.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        text.push_str(std::str::from_utf8(&piece[..read]).expect("a split character was written"));
    }
    assert!(child.wait().unwrap().success());
    assert!(text.chars().count() >= 10, "{text:?}");
    for part in text.trim_end_matches('\n').split('a') {
        // Of the first character the first half is missing, of the last the second.
        let whole = part.trim_matches('\u{fffd}');
        assert!(whole.chars().all(|c| ('\u{c0}'..='\u{23f}').contains(&c)), "{text:?}");
    }
}

#[test]
fn what_does_not_fit_the_context_is_an_error_that_says_the_limit() {
    let prompt = "x".repeat(300);
    let cases = [
        (&["generate", &prompt][..], "do not fit the context of 256"),
        (
            &["generate", "hi", "--max-new-tokens", "250"],
            "269 tokens do not fit the context of 256",
        ),
        (&["generate", "--raw", ""], "the prompt has no tokens"),
    ];
    for (arguments, expected) in cases {
        let error = error(engram(arguments).output().unwrap());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn bad_sampling_settings_are_refused_before_anything_is_loaded() {
    for (option, value, expected) in [
        ("--temperature", "-1", "temperature -1: a finite number from 0 up"),
        ("--temperature", "nan", "temperature NaN: a finite number"),
        ("--top-p", "0", "top-p 0: above 0 and at most 1"),
        ("--top-p", "1.5", "top-p 1.5: above 0"),
        ("--min-p", "-0.1", "min-p -0.1: from 0 to 1"),
        ("--repeat-penalty", "0", "repeat-penalty 0: a finite number above 0"),
    ] {
        for command in [&["generate", "hi"][..], &["chat"]] {
            let mut command = engram(&[command, &[option, value]].concat());
            let output = command.stdin(Stdio::null()).output().unwrap();
            let stderr = String::from_utf8(output.stderr.clone()).unwrap();
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            let error = error(output);
            assert!(error.contains(expected), "{error}");
        }
    }
    for arguments in [["--top-k", "-1"], ["--max-new-tokens", "x"], ["--seed", "1.5"]] {
        let output = engram(&[&["generate", "hi"], &arguments[..]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    let empty = engram(&["generate", "hi", "--stop", ""]).output().unwrap();
    assert!(error(empty).contains("a stop string is empty"));
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["generate", "hi", "--max-new-tokens", "4"][..], &["data", "stats", "."]] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test.jsonl"), "{\"text\": \"a\"}\n").unwrap();
        let output = engram(arguments).current_dir(&folder).stdout(full()).output().unwrap();
        let error = error(output);
        assert!(error.contains("No space left on device"), "{error}");
    }
}

const CHAT: [&str; 6] = ["--quiet", "chat", "--max-new-tokens", "10", "--temperature", "0"];

#[test]
fn a_chat_remembers_until_it_is_reset() {
    let lines =
        |input: &str| stdout(feed(&CHAT, input)).lines().map(str::to_owned).collect::<Vec<_>>();
    let first = lines("hi\n");
    let [alone] = first.as_slice() else { panic!("{first:?}") };
    let answers = lines("hi\n\n  hi \n/reset\nhi\n/exit\nhi\n");
    let [a, b, c] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!((a, c), (alone, alone));
    assert_ne!(b, alone, "the second turn does not see the first");
    assert_eq!(generate(&["hi", "--max-new-tokens", "10"]), *alone);
    let system = stdout(feed(&[&CHAT[..], &["--system", "be nice"]].concat(), "hi"));
    assert_ne!(system.trim_end_matches('\n'), alone);
    assert_eq!(lines(""), Vec::<String>::new());
}

#[test]
fn a_turn_computes_only_what_is_new() {
    let output = feed(&CHAT[1..], "hi\nhi\n");
    let notes = String::from_utf8(output.stderr).unwrap();
    let prompts = notes.lines().filter_map(|line| line.strip_prefix("prompt ")?.split(' ').next());
    let prompts: Vec<usize> = prompts.map(|count| count.parse().unwrap()).collect();
    let [first, second] = prompts[..] else { panic!("{notes}") };
    // The whole of the second prompt has both turns and the answer.
    assert_eq!(first, 19);
    assert!(second < 2 * first + 10, "{notes}");
}

#[test]
fn a_full_conversation_says_how_to_go_on() {
    let output = feed(&["chat", "--temperature", "0"], &format!("{}\n", "x".repeat(300)));
    let full = error(output);
    assert!(full.contains("the conversation is full; try /reset: "), "{full}");
    assert!(full.contains("do not fit the context of 256"), "{full}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_piped_chat() {
    let arguments = ["--quiet", "chat", "--temperature", "2", "--max-new-tokens", "230"];
    let mut child =
        engram(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"hi\n").unwrap();
    // The answer has begun.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let signal = ["-INT", &child.id().to_string()];
    assert!(std::process::Command::new("kill").args(signal).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
