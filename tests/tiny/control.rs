//! The control channel: JSON, one message a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use crate::json::{Json, quote};

/// What this MSA needs of `Settings`.
pub struct Settings {
    pub hostname: String,
    pub accounts: Vec<(String, Vec<String>)>,
    pub max_message_bytes: u64,
    pub max_recipients: u64,
    pub max_queue_bytes: Option<u64>,
    pub hop_limit: u64,
    pub idle_ms: u64,
    pub first_ms: u64,
    pub factor_percent: u64,
    pub max_ms: u64,
    pub expire_ms: u64,
}

impl Settings {
    fn of(json: &Json) -> Option<Settings> {
        let number = |key: &str| json.get(key).and_then(Json::number);
        let retry = |key: &str| json.get("retry")?.get(key)?.number();
        let Json::Object(accounts) = json.get("accounts")? else { return None };
        Some(Settings {
            hostname: json.get("hostname")?.text()?.to_owned(),
            accounts: accounts.iter().map(|(login, own)| (login.clone(), own.texts())).collect(),
            max_message_bytes: number("max_message_bytes")?,
            max_recipients: number("max_recipients")?,
            max_queue_bytes: number("max_queue_bytes"),
            hop_limit: number("hop_limit")?,
            idle_ms: number("idle_ms")?,
            first_ms: retry("first_ms")?,
            factor_percent: retry("factor_percent")?,
            max_ms: retry("max_ms")?,
            expire_ms: retry("expire_ms")?,
        })
    }
}

#[derive(Default)]
pub struct Control {
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    settings: Option<Arc<Settings>>,
    draining: bool,
    peer: Option<UnixStream>,
    due: Option<Option<u64>>,
}

impl Control {
    /// Serves whoever connects last. `heard` is called after each message.
    pub fn listen(self: &Control, listener: &UnixListener, heard: impl Fn()) {
        for stream in listener.incoming().flatten() {
            let Ok(writer) = stream.try_clone() else { continue };
            self.inside.lock().unwrap().peer = Some(writer);
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { break };
                self.take(&line);
                heard();
            }
        }
    }

    fn take(&self, line: &str) {
        let Some(message) = Json::parse(line) else {
            return self.say(&format!(
                "{{\"Log\":{{\"level\":\"warn\",\"text\":{}}}}}",
                quote(&format!("not understood: {line}"))
            ));
        };
        if message.text() == Some("Drain") {
            self.inside.lock().unwrap().draining = true;
        } else if let Some(settings) = message.get("Settings").and_then(Settings::of) {
            self.inside.lock().unwrap().settings = Some(Arc::new(settings));
            self.say("\"Ready\"");
        }
    }

    pub fn settings(&self) -> Option<Arc<Settings>> {
        self.inside.lock().unwrap().settings.clone()
    }

    pub fn draining(&self) -> bool {
        self.inside.lock().unwrap().draining
    }

    /// Tells when the next attempt is, if that is news.
    pub fn due_changed(&self, due: Option<u64>) {
        let news = self.inside.lock().unwrap().due.replace(due) != Some(due);
        if news {
            self.say_due("Due", due);
        }
    }

    pub fn say_due(&self, word: &str, due: Option<u64>) {
        let due = due.map_or("null".to_owned(), |due| due.to_string());
        self.say(&format!("{{{}:{{\"next_due_unix_ms\":{due}}}}}", quote(word)));
    }

    fn say(&self, line: &str) {
        let mut inside = self.inside.lock().unwrap();
        if let Some(peer) = &mut inside.peer {
            // Without a platform it works on.
            let _ = peer.write_all(format!("{line}\n").as_bytes());
        }
    }
}
