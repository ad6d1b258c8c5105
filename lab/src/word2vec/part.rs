//! A part of a text that has something of all of it.

/// Words of a piece.
pub const PIECE: usize = 10_000;

/// Every so many'th of the text's pieces of [`PIECE`] words, from the first on. Lines stay as they
/// are, but where a piece begins or ends in one.
pub fn part(text: &str, every: usize) -> String {
    let mut part = String::with_capacity(text.len() / every + 1);
    let mut number = 0;
    for line in text.lines() {
        let mut begun = false;
        for word in line.split_ascii_whitespace() {
            let kept = (number / PIECE).is_multiple_of(every);
            if begun {
                part.push(if kept { ' ' } else { '\n' });
            }
            if kept {
                part.push_str(word);
            }
            begun = kept;
            number += 1;
        }
        if begun {
            part.push('\n');
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_within_lines() {
        let words: Vec<String> = (0..4 * PIECE + 3).map(|number| number.to_string()).collect();
        // Lines of 7 words, which pieces don't end with.
        let text: String = words.chunks(7).map(|line| line.join(" ") + "\n").collect();
        assert_eq!(part(&text, 1), text);
        let half = part(&text, 2);
        let want: Vec<&String> = words
            .iter()
            .enumerate()
            .filter(|(number, _)| (number / PIECE).is_multiple_of(2))
            .map(|(_, word)| word)
            .collect();
        assert_eq!(half.split_whitespace().collect::<Vec<_>>(), want);
        let longest = half.lines().map(|line| line.split(' ').count()).max();
        assert_eq!((longest, half.lines().next()), (Some(7), text.lines().next()));
        // 10,000 = 1,428 · 7 + 4: the last line of a piece has 4 words.
        let line = half.lines().find(|line| line.starts_with("9996 "));
        assert_eq!(line, Some("9996 9997 9998 9999"));
        assert!(half.contains("9999\n20000 20001"), "{}", &half[half.len() - 100..]);
        assert_eq!(part("", 8), "");
    }
}
