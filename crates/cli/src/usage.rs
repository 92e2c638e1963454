//! What clap says about a command line that it cannot read, on one line.

use std::process::ExitCode;

use clap::{Error, error::ErrorKind};

pub(crate) fn tell(error: &Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            eprintln!("{}", one_line(&error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// The error and its tips, without the usage.
fn one_line(text: &str) -> String {
    let said = text.split("\n\n").filter(|paragraph| {
        !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information")
    });
    let line = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    said.map(line)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn claps_paragraphs() {
        let text = "error: unexpected argument '--hight' found\n\n  tip: a similar argument exists: '--height'\n\nUsage: i2vgen …\n\nFor more information, try '--help'.\n";
        let expected = "error: unexpected argument '--hight' found; tip: a similar argument exists: '--height'";
        assert_eq!(one_line(text), expected);
        let text =
            "error: the following required arguments were not provided:\n  <PATH>\n\nUsage: …\n";
        let expected = "error: the following required arguments were not provided: <PATH>";
        assert_eq!(one_line(text), expected);
    }
}
