//! The table against what real servers say.

use super::*;

const SAMPLES: &str = include_str!("samples.txt");

struct Sample<'a> {
    line: &'a str,
    class: &'a str,
    about: &'a str,
    list: Option<&'a str>,
    verb: &'a str,
    code: u16,
    text: String,
}

fn samples() -> impl Iterator<Item = Sample<'static>> {
    SAMPLES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut rest = line;
        let mut word = || {
            let (word, left) = rest.split_once(' ').unwrap();
            rest = left.trim_start();
            word
        };
        let (class, about, list, verb, code) = (word(), word(), word(), word(), word());
        Sample {
            line,
            class,
            about,
            list: (list != "-").then_some(list),
            verb: if verb == "-" { "" } else { verb },
            code: code.parse().unwrap(),
            text: rest.replace("\\n", "\n"),
        }
    })
}

fn verdict(sample: &Sample<'_>) -> Verdict {
    let Sample { verb, code, text, .. } = sample;
    classify(&Said { verb, code: *code, enhanced: enhanced(text), text })
}

#[test]
fn replies_of_the_real_world_are_told_apart() {
    assert!(samples().count() >= 150);
    let wrong: Vec<String> = samples()
        .filter_map(|sample| {
            let got = verdict(&sample);
            let right =
                (got.class.name(), got.about.name(), got.list.as_deref()) == (sample.class, sample.about, sample.list);
            let Verdict { class, about, list, rule } = got;
            (!right).then(|| format!("{}\n   got {class} {about} {list:?} by {rule:?}", sample.line))
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn only_a_listed_address_is_worth_another_address() {
    let of = |verb, code, text: &str| classify(&Said { verb, code, enhanced: enhanced(text), text }).rejects_egress();
    assert!(of("RCPT", 554, "5.7.1 Client host [203.0.113.10] blocked using zen.spamhaus.org"));
    assert!(!of("RCPT", 554, "5.7.1 Sender address blocked using dbl.spamhaus.org"), "its domain is");
    assert!(!of(".", 550, "5.7.1 this message is likely unsolicited mail"), "the message is");
    assert!(!of("RCPT", 550, "5.1.1 User unknown"));
}

#[test]
fn every_rule_has_a_name_and_says_something() {
    let rules: Vec<&Rule> = SITES.iter().chain(WORDS).collect();
    let names: std::collections::BTreeSet<&str> = rules.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), rules.len(), "two rules of one name");
    for rule in rules {
        assert!(!rule.words.is_empty() || !rule.status.is_empty(), "{}", rule.name);
        assert!(rule.words.iter().all(|word| *word == word.to_lowercase()), "{}", rule.name);
    }
}

#[test]
fn every_rule_about_a_site_has_its_sample() {
    let seen: std::collections::BTreeSet<String> = samples().map(|s| verdict(&s).rule.into_owned()).collect();
    let unseen: Vec<&str> = SITES.iter().map(|rule| rule.name).filter(|name| !seen.contains(*name)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn words_inside_other_words_do_not_count() {
    let said = |text| classify(&Said { verb: "RCPT", code: 450, enhanced: None, text }).class;
    assert_eq!(said("gorblimey.example is not known here"), Class::Other);
    assert_eq!(said("see our RBL"), Class::BlockListed);
}

#[test]
fn any_reply_has_a_class() {
    for code in [0, 100, 199, 400, 600, u16::MAX] {
        let said = Said { verb: "", code, enhanced: Some("x"), text: "\u{1b}[2J İ" };
        assert_eq!(classify(&said).class, Class::Other);
    }
}

#[test]
fn a_class_has_one_name_everywhere() {
    for class in Class::ALL {
        assert_eq!(serde_json::to_value(class).unwrap(), class.name());
    }
    for about in About::ALL {
        assert_eq!(serde_json::to_value(about).unwrap(), about.name());
    }
}

#[test]
fn a_verdict_of_before_reads_back() {
    let old: Verdict = serde_json::from_str(r#"{"class":"policy","list":null}"#).unwrap();
    assert_eq!(old, Verdict::of(Class::Policy));
}
