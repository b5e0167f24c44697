//! Classifies a text over HTTP: by one adapter, and by several in one request.
//!
//! ```sh
//! cargo run --example client -- http://127.0.0.1:8080 "Where is my parcel?" intent urgency
//! ```
//!
//! `POLYRANK_API_KEY` is sent if it is set.
#![allow(clippy::print_stdout)]

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, text, adapters @ ..] = &arguments[..] else { return usage() };
    let Some(first) = adapters.first() else { return usage() };
    match classify(url, text, first, adapters) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: client URL TEXT ADAPTER...");
    ExitCode::from(2)
}

fn classify(url: &str, text: &str, first: &str, adapters: &[String]) -> Result<(), Box<dyn Error>> {
    // One list of labels for each text.
    let labels =
        post(&format!("{url}/classify/{}", escaped(first)), &json!({"inputs": text, "parameters": {"top_k": 1}}))?;
    println!("{labels}");
    // The same for each adapter.
    println!("{}", post(&format!("{url}/classify"), &json!({"inputs": text, "adapters": adapters}))?);
    Ok(())
}

/// A name in an address. All but letters and digits are escaped.
fn escaped(name: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
}

fn post(url: &str, question: &Value) -> Result<Value, Box<dyn Error>> {
    // An answer with an error's status has a message in its body.
    let request = ureq::post(url).config().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
    let mut request = request.header("content-type", "application/json");
    if let Ok(key) = env::var("POLYRANK_API_KEY") {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut answer = request.send(question.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("{}: {}", answer.status(), answer.body_mut().read_to_string()?).into());
    }
    Ok(serde_json::from_reader(answer.body_mut().as_reader())?)
}
