//! Ready-made personas: how MX hosts misbehave, each under a domain of its own, on addresses from 198.51.100.60 on.
//!
//! Not part of every lab: [`LabConfig::catalogue`](crate::LabConfig::catalogue) asks for them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::config::{Act, Persona, Step, Tls, When};

/// The block list that the `listed-…` personas ask; [`Lab::set_list`](crate::Lab::set_list) says who is on it.
pub const LIST: &str = "bl.lab.example";
/// Sessions that `throttle` takes before it refuses.
pub const THROTTLE_AFTER: u64 = 6;
/// How much later `slow-one` answers RCPT to those on its list.
pub const SLOW_BY: Duration = Duration::from_millis(1_500);
/// The list of those that `slow-one` answers late.
pub const SLOW_LIST: &str = "slow.lab.example";
/// Time for each character that `drip` writes.
pub const DRIP: Duration = Duration::from_millis(150);

/// All of them.
pub fn all() -> Vec<Persona> {
    let mut all = Vec::new();
    let mut add = |name: &str, change: &dyn Fn(Persona) -> Persona| {
        let number = 60 + u8::try_from(all.len()).unwrap_or(u8::MAX - 60);
        let persona = Persona::new(name, Ipv4Addr::new(198, 51, 100, number), &[&format!("{name}.example")]);
        all.push(change(persona));
    };
    // Slow on purpose. In the clear: what a client waits for is then the tarpit, not a handshake.
    add("drip", &|persona| Persona { delay: DRIP, tls: Tls::Off, ..persona });
    add("slow-one", &|persona| persona.rule(Step::Rcpt, When::Listed(SLOW_LIST.into()), Act::Stall(SLOW_BY)));
    add("slow-banner", &|persona| persona.rule(Step::Greeting, When::Always, Act::Stall(Duration::from_secs(6))));
    add("throttle", &|persona| {
        let busy = Act::ReplyAndClose(vec!["421 4.7.0 Too many connections from your address, try again later".into()]);
        persona.rule(Step::Greeting, When::After(THROTTLE_AFTER), busy)
    });
    add("silent-throttle", &|persona| {
        persona.rule(Step::Greeting, When::After(THROTTLE_AFTER), Act::ReplyAndClose(vec!["421 not now".into()]))
    });
    // Refusals by source address.
    add("listed-greeting", &|persona| {
        let refusal = format!("554 5.7.1 Service unavailable; client blocked using {LIST}");
        persona.rule(Step::Greeting, When::Listed(LIST.into()), Act::ReplyAndClose(vec![refusal]))
    });
    for (name, step) in [("listed-mail", Step::Mail), ("listed-rcpt", Step::Rcpt)] {
        let refusal = format!("554 5.7.1 Service unavailable; Client host blocked using {LIST}");
        add(name, &|persona| persona.rule(step, When::Listed(LIST.into()), Act::reply(&refusal)));
    }
    add("greylist", &|persona| {
        persona.rule(Step::Rcpt, When::FirstOfPair, Act::reply("450 4.2.0 Greylisted, please come back in 00:00:01"))
    });
    // TLS.
    add("tls-only", &|persona| {
        persona.rule(Step::Mail, When::InTheClear, Act::reply("530 5.7.0 Must issue a STARTTLS command first"))
    });
    for (name, tls) in [
        ("tls-refused", Tls::Refused),
        ("tls-garbage", Tls::Broken),
        ("tls-stall", Tls::Stalled),
        ("tls-alert", Tls::Alert),
    ] {
        add(name, &|persona| Persona { tls, ..persona });
    }
    // Gone without a word.
    for (name, step) in [
        ("drop-greeting", Step::Greeting),
        ("drop-ehlo", Step::Ehlo),
        ("drop-starttls", Step::Starttls),
        ("drop-mail", Step::Mail),
        ("drop-rcpt", Step::Rcpt),
        ("drop-data", Step::Data),
        ("drop-content", Step::Content),
        ("drop-quit", Step::Quit),
    ] {
        add(name, &|persona| persona.rule(step, When::Always, Act::Drop));
    }
    all
}

#[cfg(test)]
mod tests {
    use crate::config::LabConfig;
    use crate::map;

    #[test]
    fn nobody_shares_an_address_or_a_name() {
        let config = LabConfig { catalogue: true, ..LabConfig::default() };
        let personas = map::personas(&config);
        let mut addresses = map::bridge_addresses(&config);
        addresses.extend(map::hosts(&config).into_iter().flat_map(|host| host.addresses));
        let mut names: Vec<String> = personas.into_iter().map(|persona| persona.name).collect();
        let (count, named) = (addresses.len(), names.len());
        addresses.sort();
        addresses.dedup();
        names.sort();
        names.dedup();
        assert_eq!((addresses.len(), names.len()), (count, named));
    }
}
