//! The table that is printed.

/// One line of the table.
#[derive(Default)]
pub(crate) struct Line {
    /// What was measured.
    pub(crate) what: String,
    pub(crate) measured: String,
    /// The least that it must reach.
    pub(crate) goal: &'static str,
    /// Whether it did; `None` where the line only tells.
    pub(crate) met: Option<bool>,
    /// What helps to read the number: controls, counts, the cost of asking.
    pub(crate) beside: String,
}

pub(crate) fn print_head() {
    println!("| row | what | measured | goal | met | beside it |");
    println!("| --- | --- | --- | --- | --- | --- |");
}

impl Line {
    pub(crate) fn print(&self, row: &str) {
        let Self { what, measured, goal, met, beside } = self;
        let met = match met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let [measured, beside] = [measured, beside].map(|text| text.replace(['\n', '|'], " "));
        println!("| {row} | {what} | {measured} | {goal} | {met} | {beside} |");
    }
}
