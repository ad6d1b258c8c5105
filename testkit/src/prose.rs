//! Text of Markdown documents in lines that people can read.

/// Columns of a line.
const WIDTH: usize = 100;

/// Lines of as many words as fit, with something in front of each but the first.
pub fn wrapped(text: &str, indent: &str) -> String {
    let mut all = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        // What would begin a list, a heading or a quotation stays where it is.
        let marks = word.chars().all(|letter| "-+*#>".contains(letter));
        if width == 0 {
            width = letters;
        } else if width + 1 + letters <= WIDTH || marks {
            all.push(' ');
            width += 1 + letters;
        } else {
            all.push('\n');
            all.push_str(indent);
            width = indent.len() + letters;
        }
        all.push_str(word);
    }
    all.push('\n');
    all
}

/// A document of which each paragraph and each item of a list is one line, with these wrapped.
/// Tables, code, headings and pictures stay as they are.
pub fn wrapped_document(text: &str) -> String {
    let mut all = String::new();
    let mut code = false;
    for line in text.lines() {
        let fence = line.starts_with("```");
        code ^= fence;
        let kept = code || fence || ["|", "#", "!["].iter().any(|mark| line.starts_with(mark));
        if kept || line.trim().is_empty() {
            all.push_str(line);
            all.push('\n');
        } else {
            all.push_str(&wrapped(line, if line.starts_with("- ") { "  " } else { "" }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_they_may_be() {
        let word = "ninechars".repeat(5);
        let text = format!("- {word} {word} - {word} {word}");
        let lines = format!("- {word} {word} -\n  {word} {word}\n");
        assert_eq!(wrapped(&text, "  "), lines);
        let long = "a".repeat(120);
        assert_eq!(wrapped(&format!("see {long} there"), ""), format!("see\n{long}\nthere\n"));
    }

    #[test]
    fn tables_and_code_stay() {
        let row = format!("| {} |", "cell ".repeat(40));
        let code = format!("```sh\n{}\n```", "word ".repeat(40).trim_end());
        let item = format!("- {}", "word ".repeat(40).trim_end());
        let text = format!("# A\n\n{row}\n\n{code}\n\n{item}\n");
        let lines = wrapped_document(&text);
        assert!(lines.contains(&row) && lines.contains(&code) && !lines.contains(&item));
        assert!(lines.contains("\n  word"), "{lines}");
    }
}
