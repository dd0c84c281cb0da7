//! The balancer's own small responses.
//!
//! Owns the table of reason texts that users of the original see, and the form of a small HTML answer.
//! Apart from `forward`, which passes on other people's responses. It does not add Date or Server: the daemon does.

/// Reason text of a status as the original words it; today's texts for statuses it never sent.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        // COMPAT(perlbal): ClientHTTPBase.pm words 301 and 400 like this.
        301 => "Permanent Redirect",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Request range not satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Body of a small answer: a heading with code and reason, then the message.
#[must_use]
pub fn small_body(status: u16, message: &str) -> String {
    format!(
        "<h1>{status}{}{}</h1>\n{message}",
        if reason(status) == "Unknown" {
            ""
        } else {
            " - "
        },
        if reason(status) == "Unknown" {
            ""
        } else {
            reason(status)
        }
    )
}

/// Text made safe for an HTML page.
#[must_use]
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_answers_look_like_the_originals() {
        assert_eq!(small_body(404, ""), "<h1>404 - Not Found</h1>\n");
        assert_eq!(
            small_body(400, "Invalid filename"),
            "<h1>400 - Bad request</h1>\nInvalid filename"
        );
        assert_eq!(small_body(299, "x"), "<h1>299</h1>\nx");
        assert_eq!(
            escape_html("<a href='\"&'>"),
            "&lt;a href=&#39;&quot;&amp;&#39;&gt;"
        );
    }
}
