"""What `fetch.access` says, in English. `fetch.messages_zh` has the same lines in Chinese.

A situation is a list of lines (needs, text): a line is printed when the fields it needs are known (`no FIELD`: when it
is not). Commands stand on their own lines, indented, so that they can be copied.
"""

Line = tuple[str, str]

WHERE = {"hf": "Hugging Face", "mirror": "the mirror {mirror}", "modelscope": "ModelScope"}

# ModelScope does not say which of the two it is.
GATED = {"hf": "gated", "modelscope": "gated or private"}

# By Token.source: what to call it, how to do without it, how to put a good one in its place.
TOKENS: dict[str, dict[str, str]] = {
    name: {
        "token": f"the environment variable {name}",
        "forget": f"    unset {name}",
        "renew": f"    unset {name}\n    {{login}}\n   (in CI: put it into the secret that sets {name})",
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
}
TOKENS["stored login"] = {
    "token": "the stored login ({login})",
    "forget": "    {logout}",
    "renew": "    {logout}\n    {login}",
}
TOKENS["--token-file"] = {
    "token": "the file given with --token-file",
    "forget": "   leave --token-file out",
    "renew": "   write it into that file, which only you should be able to read (chmod 600)",
}
TOKENS["HF_OIDC_RESOURCE"] = {
    "token": "the CI identity named by HF_OIDC_RESOURCE",
    "forget": "    unset HF_OIDC_RESOURCE",
    "renew": "   check the trusted publisher that HF_OIDC_RESOURCE names, and that the job may use it",
}

TERMS: tuple[Line, ...] = (("", "1. Log in with your browser and accept the terms on the model's page: {page}"),)

SITUATIONS: dict[str, tuple[Line, ...]] = {
    "gated-no-token": (
        ("", "{repo} is {gated} on {where}, and no token was found on this machine."),
        ("", "Gated: its owner gives it only to accounts that accepted its terms, so an account is needed."),
        ("mirror", "That holds with a mirror too: a mirror does not lift a gate."),
        *TERMS,
        ("", "2. Log in on this machine (in CI: put a token into the secret that sets {variable}):"),
        ("", "    {login}"),
        ("no mirror", "3. Run it again:"),
        ("no mirror", "    {command}"),
        ("mirror", "3. Run it again, from {hub} itself:"),
        ("mirror", "    {hub_command}"),
        ("mirror", "   or, if you trust {mirror} with your token:"),
        ("mirror", "    {mirror_command}"),
    ),
    "gated-token-withheld": (
        ("", "{repo} is {gated}, and your token was not sent to {mirror}."),
        ("", "A mirror does not lift a gate: the token of an approved account is needed with a mirror too."),
        ("", "Yours, from {token}, goes to {hub} alone unless you say otherwise: who runs a mirror could use it."),
        *TERMS,
        ("", "2. Fetch from {hub} itself:"),
        ("", "    {hub_command}"),
        ("", "   or, if you trust {mirror} with your token:"),
        ("", "    {mirror_command}"),
    ),
    "gated-not-approved": (
        ("", "{repo} is {gated} on {where}; the token from {token} is valid, but it may not read this model."),
        ("detail", "Its answer: {detail}"),
        ("", "Open the model's page with the account of that token: {page}"),
        ("", "- It asks for your agreement: accept, then run the command below."),
        ("", "- It says that your request is pending: its owner decides, which can take days."),
        ("permission", "- It says that you have access: the token lacks a permission. A fine-grained token needs"),
        ("permission", '  "{permission}".'),
        ("permission", "  Make one that has it, and put it in the place of the other: {new_token}"),
        ("", "    {command}"),
    ),
    "token-rejected": (
        ("", "{where} refuses the token from {token}: it is expired, revoked or mistyped."),
        ("", "With a bad token even public models are refused; without one they are not."),
        ("", "- For a public model, do without it:"),
        ("", "{forget}"),
        ("", "    {public_command}"),
        ("", "- For a gated or private one, make a new token at {tokens} and use it:"),
        ("", "{renew}"),
        ("", "    {command}"),
    ),
    "not-found": (
        ("", "{where} shows no model {repo}: there is none of that name, or it is private."),
        ("no token_source", "It was asked without a token, so what is private is hidden."),
        ("token_source", "It was asked with the token from {token}, whose account may not see it."),
        ("withheld", "Your token, from {token}, was not sent to {mirror}: it goes to {hub} alone."),
        ("suggestions", "Names like it: {suggestions}"),
        ("", "- Compare the spelling, owner/name, with the model's page: {search}"),
        ("anonymous", "- If it is private, log in with an account that may read it:"),
        ("anonymous", "    {login}"),
        ("token_source", "- If it is private, use the token of an account that may read it: {tokens}"),
        ("mirror", "- A mirror may not have it, or not yet. Ask {hub} itself:"),
        ("mirror", "    {hub_command}"),
        ("withheld", "- If you trust {mirror} with your token:"),
        ("withheld", "    {mirror_command}"),
    ),
    "revision-not-found": (
        ("", "{repo} has no revision {revision} on {where}: no branch, tag or commit of that name."),
        ("default_commit", "Its {default_revision} is at {default_commit}."),
        ("mirror", "A mirror can lag behind {hub}."),
        ("revisions", "There are: {revisions}"),
        ("no revisions", "Its branches, tags and commits are on its page: {page}"),
        ("lock", "The lock {lock} asks for it."),
        ("no lock", "- Correct --revision, or take the default branch:"),
        ("no lock", "    {default_command}"),
        ("lock, default_revision", "- {default_revision} may have the same files; each is compared with the lock:"),
        ("lock, default_revision", "    {default_command} --revision {default_revision}"),
        ("mirror", "- Or ask {hub} itself:"),
        ("mirror", "    {hub_command}"),
    ),
    "disabled": (
        ("", "{repo} is disabled on {where}: access to it is closed, for everybody."),
        ("", "No account and no token changes that; its page may say why: {page}"),
        ("", "- If you have the files, fetch verifies and copies a folder too:"),
        ("", "    shipvlm fetch path/to/folder"),
    ),
    "not-a-hub": (
        ("", "{endpoint} does not answer as a hub does: {detail}"),
        ("mirror", "The address is not a hub's, or a proxy on the way removes headers."),
        ("no mirror", "The address is right, so something on the way, such as a proxy, changes the answers."),
        ("probe", "- Look at what it answers; a hub's answer has the header x-repo-commit:"),
        ("probe", "    {probe}"),
        ("mirror", "- Correct --endpoint or the recipe's model.endpoint (without them, {endpoint_variable} counts)."),
        ("mirror", "- Or ask {hub} itself:"),
        ("mirror", "    {hub_command}"),
        ("no mirror", "- Have it pass the answers as they are, or use another network:"),
        ("no mirror", "    {command}"),
    ),
    "web-page": (
        ("", "{endpoint} answered with a web page where data was expected."),
        ("", "Something on the way answers in its place: the login page of a network, or a proxy."),
        ("", "- Open {endpoint} in a browser on this machine and log in to the network where it asks for it."),
        ("", "- Behind a company's proxy, set HTTPS_PROXY; for an address inside the company, NO_PROXY."),
        ("mirror", "- Or the address is wrong: --endpoint, the recipe's model.endpoint, else {endpoint_variable}."),
        ("", "- Then:"),
        ("", "    {command}"),
    ),
    "rate-limited": (
        ("", "{where} asks to wait: too many requests from this address or account."),
        ("wait", "It answers again in {wait} s."),
        ("no wait", "It does not say for how long; limits are often counted over some minutes."),
        ("kept", "What was fetched is kept."),
        ("", "Wait, then:"),
        ("", "    {command}"),
        ("anonymous, no mirror", "An account has a higher limit than none:"),
        ("anonymous, no mirror", "    {login}"),
    ),
    "offline": (
        ("", "Offline mode is on ({detail}), and the files of {repo} are not all here."),
        ("files", "Missing: {files}"),
        ("", "- Switch offline mode off and fetch:"),
        ("", "    unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE"),
        ("", "    {command}"),
        ("", "- Or fetch on a machine with a network, copy its folder here, and verify and copy it with:"),
        ("", "    shipvlm fetch path/to/folder"),
    ),
    "unreachable": (
        ("", "{where} cannot be reached: {detail}"),
        ("files", "Missing: {files}"),
        ("kept", "What was fetched is kept."),
        ("", "In this order:"),
        ("", "- Can this machine reach it at all? Behind a proxy, set HTTPS_PROXY (and NO_PROXY)."),
        ("", "    {reach}"),
        ("", "- A certificate that is not accepted: put the path of the proxy's CA certificate into SSL_CERT_FILE."),
        ("", "- Then again, from here or from a mirror (--endpoint URL):"),
        ("", "    {command}"),
    ),
}

SAME_TERMS = "The model's licence binds you there too."
APART: tuple[Line, ...] = (
    ("part", "Into another folder, as {part} holds a part that only {hub} or a mirror of it can complete:"),
)
MODELSCOPE: dict[str, tuple[Line, ...]] = {
    "same": (
        ("", "ModelScope has the same weights (every sha256 that both list is equal). " + SAME_TERMS),
        *APART,
        ("", "    {modelscope_command}"),
    ),
    "different": (("", "ModelScope has a model of this name with other bytes: it is no replacement."),),
    "there": (
        ("", "ModelScope has a model of this name. Whether its bytes are the same is not known: there is no list to"),
        ("", "compare them with; a checkpoint.lock.json given with --lock would settle it. " + SAME_TERMS),
        *APART,
        ("", "    {modelscope_command}"),
    ),
    "no revision": (("", "ModelScope has a model of this name, but not this revision."),),
    "not there": (("", "ModelScope has no model of this name."),),
    "not known": (("", "Whether ModelScope has it is not known: ModelScope did not answer."),),
}
