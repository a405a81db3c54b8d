# ruff: noqa: RUF001 - the punctuation of Chinese is meant
"""What `fetch.access` says, in Chinese: the lines of `fetch.messages_en`, as an engineer would write them."""

Line = tuple[str, str]

WHERE = {"hf": " Hugging Face", "mirror": "镜像站 {mirror}", "modelscope": "魔搭 ModelScope"}

GATED = {"hf": "受限模型（gated）", "modelscope": "受限或私有模型"}

TOKENS: dict[str, dict[str, str]] = {
    name: {
        "token": f"环境变量 {name}",
        "forget": f"    unset {name}",
        "renew": f"    unset {name}\n    {{login}}\n   （CI 环境：更新注入 {name} 的那个 secret）",
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
}
TOKENS["stored login"] = {
    "token": "{login} 保存的登录信息",
    "forget": "    {logout}",
    "renew": "    {logout}\n    {login}",
}
TOKENS["--token-file"] = {
    "token": "--token-file 指定的文件",
    "forget": "   去掉 --token-file 选项",
    "renew": "   把新 token 写入该文件，并限制为仅自己可读（chmod 600）",
}
TOKENS["HF_OIDC_RESOURCE"] = {
    "token": "HF_OIDC_RESOURCE 对应的 CI 身份",
    "forget": "    unset HF_OIDC_RESOURCE",
    "renew": "   检查 HF_OIDC_RESOURCE 对应的 trusted publisher 配置，确认当前任务有权使用",
}

TERMS: tuple[Line, ...] = (("", "1. 用浏览器登录，在模型主页同意使用条款：{page}"),)

SITUATIONS: dict[str, tuple[Line, ...]] = {
    "gated-no-token": (
        ("", "{repo} 在{where} 上是{gated}，而本机没有找到 token。"),
        ("", "受限模型只对已同意其使用条款的账号开放，所以必须有账号。"),
        ("mirror", "走镜像站也一样：镜像只加速下载，不会绕过访问限制。"),
        *TERMS,
        ("", "2. 在本机登录（CI 环境：把 token 配成 secret，通过环境变量 {variable} 注入）："),
        ("", "    {login}"),
        ("no mirror", "3. 重新执行："),
        ("no mirror", "    {command}"),
        ("mirror", "3. 重新执行，直接从 {hub} 下载："),
        ("mirror", "    {hub_command}"),
        ("mirror", "   如果信任 {mirror}，愿意把 token 发给它，也可以："),
        ("mirror", "    {mirror_command}"),
    ),
    "gated-token-withheld": (
        ("", "{repo} 是{gated}，而你的 token 没有发给 {mirror}。"),
        ("", "镜像不会绕过访问限制，走镜像也要有已获授权的账号的 token。"),
        ("", "你的 token（来源：{token}）默认只发给 {hub}，以免被镜像站的运营者盗用。"),
        *TERMS,
        ("", "2. 直接从 {hub} 下载："),
        ("", "    {hub_command}"),
        ("", "   如果信任 {mirror}，愿意把 token 发给它，也可以："),
        ("", "    {mirror_command}"),
    ),
    "gated-not-approved": (
        ("", "{repo} 在{where} 上是{gated}。你的 token（来源：{token}）有效，但没有读取它的权限。"),
        ("detail", "服务器返回：{detail}"),
        ("", "用这个 token 所属的账号打开模型主页：{page}"),
        ("", "- 页面要求同意条款：同意后执行下面的命令。"),
        ("", "- 页面显示申请待审核：由模型作者人工审批，可能要等几天。"),
        ("permission", "- 页面显示已获得访问权限：问题在 token 的权限。细粒度（fine-grained）token 需要勾选"),
        ("permission", "  “{permission}”。"),
        ("permission", "  新建一个带此权限的 token，替换原来的：{new_token}"),
        ("", "    {command}"),
    ),
    "token-rejected": (
        ("", "你的 token（来源：{token}）被{where} 拒绝：已过期、被撤销，或者填错了。"),
        ("", "带着无效 token 时，公开模型也会被拒绝；不带 token 反而可以下载。"),
        ("", "- 下载公开模型：去掉这个 token 再试"),
        ("", "{forget}"),
        ("", "    {public_command}"),
        ("", "- 下载受限或私有模型：在 {tokens} 新建 token 并换上"),
        ("", "{renew}"),
        ("", "    {command}"),
    ),
    "not-found": (
        ("", "在{where} 上找不到模型 {repo}：名称不存在，或者是私有模型。"),
        ("no token_source", "本次请求没有带 token，因此看不到任何私有模型。"),
        ("token_source", "本次请求带了 token（来源：{token}），它所属的账号可能无权查看。"),
        ("withheld", "你的 token（来源：{token}）没有发给 {mirror}：默认只发给 {hub}。"),
        ("suggestions", "名称相近的有：{suggestions}"),
        ("", "- 核对名称（格式为 owner/name，以模型主页为准）：{search}"),
        ("anonymous", "- 如果是私有模型，用有权限的账号登录："),
        ("anonymous", "    {login}"),
        ("token_source", "- 如果是私有模型，换用有权限的账号的 token：{tokens}"),
        ("mirror", "- 镜像站可能没有这个模型，或者还没有同步。直接从 {hub} 下载："),
        ("mirror", "    {hub_command}"),
        ("withheld", "- 如果信任 {mirror}，愿意把 token 发给它："),
        ("withheld", "    {mirror_command}"),
    ),
    "revision-not-found": (
        ("", "{repo} 在{where} 上没有版本 {revision}：没有这个名称的分支、tag 或 commit。"),
        ("default_commit", "那里的 {default_revision} 目前指向 {default_commit}。"),
        ("mirror", "镜像站的同步可能滞后于 {hub}。"),
        ("revisions", "现有版本：{revisions}"),
        ("no revisions", "分支、tag 和 commit 见模型主页：{page}"),
        ("lock", "这个版本是 {lock} 要求的。"),
        ("no lock", "- 改正 --revision，或者使用默认分支："),
        ("no lock", "    {default_command}"),
        ("lock, default_revision", "- {default_revision} 上的文件可能相同，下载时会逐个与 lock 比对："),
        ("lock, default_revision", "    {default_command} --revision {default_revision}"),
        ("mirror", "- 或者直接从 {hub} 下载："),
        ("mirror", "    {hub_command}"),
    ),
    "disabled": (
        ("", "{repo} 在{where} 上已被禁用，任何人都无法下载。"),
        ("", "换账号或 token 都没有用；原因可能写在模型主页：{page}"),
        ("", "- 如果手上有这些文件，fetch 也可以校验并复制本地目录："),
        ("", "    shipvlm fetch path/to/folder"),
    ),
    "not-a-hub": (
        ("", "{endpoint} 的响应不符合 Hub 的协议：{detail}"),
        ("mirror", "可能地址不对，也可能中间的代理删掉了响应头。"),
        ("no mirror", "地址没有问题，应该是中间的代理之类改动了响应。"),
        ("probe", "- 看看它返回什么；正常的响应里有 x-repo-commit 这个响应头："),
        ("probe", "    {probe}"),
        ("mirror", "- 改正 --endpoint 或 recipe 里的 model.endpoint（两者都没有时，取 {endpoint_variable} 的值）。"),
        ("mirror", "- 或者直接从 {hub} 下载："),
        ("mirror", "    {hub_command}"),
        ("no mirror", "- 让代理原样转发响应，或者换一个网络，再执行："),
        ("no mirror", "    {command}"),
    ),
    "web-page": (
        ("", "{endpoint} 返回的是网页，而不是数据。"),
        ("", "请求在中途被拦截了，一般是上网认证页或者代理。"),
        ("", "- 在本机用浏览器打开 {endpoint}，如果弹出上网认证就先登录。"),
        ("", "- 公司网络需要代理时设置 HTTPS_PROXY；访问内网地址用 NO_PROXY 排除代理。"),
        ("mirror", "- 也可能是地址不对：检查 --endpoint、recipe 里的 model.endpoint 和 {endpoint_variable}。"),
        ("", "- 然后重试："),
        ("", "    {command}"),
    ),
    "rate-limited": (
        ("", "请求太频繁，当前 IP 或账号已被{where} 限流。"),
        ("wait", "{wait} 秒后恢复。"),
        ("no wait", "服务器没有说明要等多久；限流通常按几分钟的窗口计算。"),
        ("kept", "已下载的内容会保留。"),
        ("", "稍后再执行："),
        ("", "    {command}"),
        ("anonymous, no mirror", "登录后的限额比匿名访问高："),
        ("anonymous, no mirror", "    {login}"),
    ),
    "offline": (
        ("", "当前是离线模式（{detail}），而 {repo} 的文件在本机上不完整。"),
        ("files", "缺少：{files}"),
        ("", "- 关闭离线模式后下载："),
        ("", "    unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE"),
        ("", "    {command}"),
        ("", "- 或者在能联网的机器上下载，把整个目录拷过来，再校验并复制："),
        ("", "    shipvlm fetch path/to/folder"),
    ),
    "unreachable": (
        ("", "连接不上{where}：{detail}"),
        ("files", "缺少：{files}"),
        ("kept", "已下载的内容会保留。"),
        ("", "请依次检查："),
        ("", "- 本机能否访问这个地址？需要代理时设置 HTTPS_PROXY（以及 NO_PROXY）。"),
        ("", "    {reach}"),
        ("", "- 证书校验失败：用 SSL_CERT_FILE 指定代理的 CA 证书路径。"),
        ("", "- 然后重试，也可以换一个镜像站（--endpoint URL）："),
        ("", "    {command}"),
    ),
}

SAME_TERMS = "在那里下载同样要遵守模型的许可证。"
APART: tuple[Line, ...] = (
    ("part", "要下载到另一个文件夹，因为 {part} 里有未完成的下载，只能由 {hub} 或其镜像站续传："),
)
MODELSCOPE: dict[str, tuple[Line, ...]] = {
    "same": (
        ("", "魔搭 ModelScope 上有相同的权重（两边都给出 sha256 的文件全部一致）。" + SAME_TERMS),
        *APART,
        ("", "    {modelscope_command}"),
    ),
    "different": (("", "魔搭 ModelScope 上有同名模型，但文件内容不同，不能替代。"),),
    "there": (
        ("", "魔搭 ModelScope 上有同名模型，但无法确认文件是否相同：这边拿不到文件清单，没法比对；"),
        ("", "用 --lock 指定一份 checkpoint.lock.json 就能确认。" + SAME_TERMS),
        *APART,
        ("", "    {modelscope_command}"),
    ),
    "no revision": (("", "魔搭 ModelScope 上有同名模型，但没有这个版本。"),),
    "not there": (("", "魔搭 ModelScope 上没有同名模型。"),),
    "not known": (("", "魔搭 ModelScope 没有响应，无法确认那里有没有这个模型。"),),
}
