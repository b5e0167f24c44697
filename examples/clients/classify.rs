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

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let usage = "usage: client URL TEXT ADAPTER...";
    let (url, text) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let adapters: Vec<String> = arguments.collect();
    let first = adapters.first().ok_or(usage)?;

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
    let mut request = ureq::post(url).header("content-type", "application/json");
    if let Ok(key) = env::var("POLYRANK_API_KEY") {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut answer = request.send(question.to_string())?;
    Ok(serde_json::from_reader(answer.body_mut().as_reader())?)
}
