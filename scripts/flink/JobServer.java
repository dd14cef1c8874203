import java.util.List;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.runners.flink.FlinkJobInvoker;
import org.apache.beam.runners.flink.FlinkJobServerDriver;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.FlinkPipelineRunner;
import org.apache.beam.runners.jobsubmission.JobInvocation;
import org.apache.beam.runners.jobsubmission.PortablePipelineRunner;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.util.concurrent.ListeningExecutorService;

/**
 * Beam's job server for a cluster that has Beam's jars in its lib folder. Beam's own uploads the job server's whole class
 * path, 270 MB, with each job, and each TaskManager fetches it again: 15 s of a job's start on two cores.
 */
public class JobServer {
  public static void main(String[] arguments) {
    FlinkJobServerDriver.FlinkServerConfiguration configuration = FlinkJobServerDriver.parseArgs(arguments);
    FlinkJobServerDriver.fromConfig(configuration, () -> new Invoker(configuration)).run();
  }

  private static class Invoker extends FlinkJobInvoker {
    Invoker(FlinkJobServerDriver.FlinkServerConfiguration configuration) {
      super(configuration);
    }

    @Override
    protected JobInvocation createJobInvocation(
        String invocationId,
        String retrievalToken,
        ListeningExecutorService executorService,
        RunnerApi.Pipeline pipeline,
        FlinkPipelineOptions options,
        PortablePipelineRunner uploading) {
      var runner = new FlinkPipelineRunner(options, System.getenv("FLINK_CONF_DIR"), List.of());
      return super.createJobInvocation(invocationId, retrievalToken, executorService, pipeline, options, runner);
    }
  }
}
