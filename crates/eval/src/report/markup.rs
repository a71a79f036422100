//! Text to HTML in which nothing foreign can become markup.
//!
//! In:  fixed markup and any text. Out: HTML.
//! Only `&'static str` goes in as it is; all other text is escaped, so that forgetting is not
//! possible.

/// HTML being written.
#[derive(Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Fixed markup of this program.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Any text, in an element or between the quotes of an attribute.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                c if c.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
        self
    }

    /// The markup written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}
