//! `rkubelet completion`: scripts by which a shell completes the tools and the flags. Pure.

use std::fmt::Write as _;

use super::Tool;
use crate::config;

/// Returns the script of a shell; `None` for a shell that has none.
pub(super) fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash())),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn tools() -> Vec<&'static str> {
    Tool::ALL.into_iter().map(Tool::as_str).collect()
}

fn bash() -> String {
    let flags: Vec<String> = config::flag_names().map(|(name, _)| format!("--{name}")).collect();
    format!(
        "\
_rkubelet() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    case ${{COMP_WORDS[1]}} in
    config)
        if ((COMP_CWORD == 2)); then words='validate diff explain'; else words='{flags}'; fi ;;
    completion) words='bash zsh fish' ;;
    pods | timeline | support-bundle) words='--output --root-dir --help' ;;
    *) if ((COMP_CWORD == 1)); then words='{tools} {flags}'; else words='{flags}'; fi ;;
    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))
    [[ ${{COMPREPLY[0]:-}} ]] || COMPREPLY=($(compgen -f -- \"${{word#*=}}\"))
}}
complete -F _rkubelet rkubelet
",
        tools = tools().join(" "),
        flags = flags.join(" "),
    )
}

fn fish() -> String {
    let mut text = String::new();
    let tools = tools().join(" ");
    let _ = writeln!(text, "complete -c rkubelet -n __fish_use_subcommand -f -a '{tools}'");
    for (word, words) in [("config", "validate diff explain"), ("completion", "bash zsh fish")] {
        let _ = writeln!(
            text,
            "complete -c rkubelet -n '__fish_seen_subcommand_from {word}' -f -a '{words}'"
        );
    }
    for (name, help) in config::flag_names() {
        let help = help.replace('\\', "\\\\").replace('\'', "\\'");
        let _ = writeln!(text, "complete -c rkubelet -l {name} -d '{help}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::script;

    #[test]
    fn bash_completes_tools_and_flags() {
        let script = script("bash").expect("a script");
        let ask = |words: &str, index: usize| {
            let line = format!(
                "{script}\nCOMP_WORDS=({words}); COMP_CWORD={index}; _rkubelet; echo \"${{COMPREPLY[@]}}\""
            );
            let output = Command::new("bash").args(["-c", &line]).output().expect("bash");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        assert_eq!(ask("rkubelet time", 1), "timeline");
        assert_eq!(ask("rkubelet config di", 2), "diff");
        assert_eq!(ask("rkubelet --max-po", 1), "--max-pods");
        assert_eq!(ask("rkubelet completion f", 2), "fish");
    }

    #[test]
    fn fish_has_every_flag_with_its_sentence() {
        let script = script("fish").expect("a script");
        assert!(script.contains("complete -c rkubelet -l max-pods -d '"), "{script}");
    }
}
