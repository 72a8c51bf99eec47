//! The commands of `proxy/README.md`, taken from it, so that what is tested is what people read.

const README: &str = include_str!("../../../proxy/README.md");

/// The commands of the first shell block behind this phrase, each a paragraph.
pub fn commands(phrase: &str) -> Vec<&'static str> {
    let (_, rest) = README.split_once(phrase).expect("the README says this");
    let (_, block) = rest.split_once("```sh\n").expect("commands follow");
    let (block, _) = block.split_once("\n```").expect("a block has an end");
    block.split("\n\n").collect()
}

/// The first block of TOML behind this phrase.
pub fn toml(phrase: &str) -> &'static str {
    let (_, rest) = README.split_once(phrase).expect("the README says this");
    let (_, block) = rest.split_once("```toml\n").expect("TOML follows");
    block.split_once("```").expect("a block has an end").0
}

/// What stands in quotes right behind this phrase.
pub fn quoted(phrase: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("{phrase}`")).expect("the README says this");
    rest.split_once('`').expect("a quote has an end").0
}

/// The rules that send the mail of this host through the proxy, which are one of [`commands`].
pub fn redirect() -> &'static str {
    let all = commands("Five commands");
    let command =
        all.iter().find_map(|command| command.strip_prefix("nft -f - <<'END'\n")).expect("nft is one of them");
    command.strip_suffix("END").expect("what nft reads has an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_five_and_one_has_the_rules() {
        let all = commands("Five commands");
        assert_eq!(all.len(), 5, "{all:#?}");
        assert!(redirect().starts_with("table ip warren {") && redirect().ends_with("}\n"), "{}", redirect());
        assert_eq!(quoted("To undo it: "), "nft delete table ip warren");
        assert_eq!(commands("Then four commands").len(), 4);
        assert!(toml("## DANE").starts_with("[resolver]\n"), "{}", toml("## DANE"));
    }
}
